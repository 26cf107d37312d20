"""What a benchmark found: tables, and the limits that were missed."""

from __future__ import annotations

from dataclasses import dataclass, field

Row = tuple[str, ...]


@dataclass(slots=True)
class Report:
    """Tables in the order in which they are printed, lines below them, and what missed its limit."""

    tables: list[list[Row]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    _limited: list[Row] = field(default_factory=list)

    def table(self, head: Row, *rows: Row) -> None:
        self.tables.append([head, ("---", *("---:" for _ in head[1:])), *rows])

    def limited(self, what: str, found: str, *, value: float, limit: float, shown: str, at_least: bool = False) -> None:
        """A row of the table of limits: `found` is what to show, `value` is what is held against `limit`."""
        is_met = value >= limit if at_least else value <= limit
        self._limited.append((what, found, f"{'over' if at_least else 'under'} {shown}", "yes" if is_met else "no"))
        if not is_met:
            self.missed.append(f"{what}: {found}, and not {'over' if at_least else 'under'} {shown}")

    def text(self) -> str:
        """All tables as Markdown, that of the limits last."""
        if self._limited:
            self.table(("limit", "found", "wanted", "met"), *self._limited)
            self._limited = []
        return "\n\n".join([*(_markdown(rows) for rows in self.tables), *self.remarks])


def _markdown(rows: list[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)
