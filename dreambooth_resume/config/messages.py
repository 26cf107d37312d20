"""How errors look on the terminal. Imports no pydantic: `dbr --help` comes by here and must answer at once."""

from __future__ import annotations

from dreambooth_resume.errors import BadInput, DbrError

LONGEST_SHOWN_VALUE = 60


def format_error(error: DbrError) -> str:
    """What is printed for an error, without a newline at the end.

    For bad input `dbr: WHERE: WHAT`, then `  fix: WHAT TO TYPE`. Other errors bring their own text. The last line says
    where more is to be read.
    """
    if not isinstance(error, BadInput):
        return f"dbr: {error}\n{more(error)}"
    place = f"{_printable(error.where)}: " if error.where else ""
    lines = [f"dbr: {place}{_printable(error.what)}"]
    if error.fix:
        lines.append(f"  fix: {_printable(error.fix)}")
    return "\n".join([*lines, more(error)])


def more(error: DbrError | type[DbrError]) -> str:
    """What to type to read what the documentation says of this kind of error."""
    return f"  more: dbr help {error.anchor}"


def shown(value: object) -> str:
    """A value as the user would write it, cut at 60 characters: text in quotes, true, null."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "a group of keys"
    if isinstance(value, str):
        text = value if len(value) <= LONGEST_SHOWN_VALUE else value[: LONGEST_SHOWN_VALUE - 1] + "…"
        return f'"{text}"'
    return str(value)[:LONGEST_SHOWN_VALUE]


def assignment(name: str, value: object, *, where: str) -> str:
    """How to give option `name` its value at `where` ("--rank", "run.yaml:3: rank"): the same flag or key again."""
    text = shown(value) if isinstance(value, str) and " " in value else plain(value)
    if not where.startswith("--"):
        return f"{where.rpartition(': ')[2]}: {text}"
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"{where} {text}"


def plain(value: object) -> str:
    """A value without quotes, for lists and defaults."""
    return value if isinstance(value, str) else shown(value)


def _printable(text: str) -> str:
    """Control characters, which a mistyped word can hold, as escapes: a terminal would obey them."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
