"""What the reading commands print: columns for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass

from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_GAP = "  "
_STATE_STYLES = {
    "running": "green",
    "starting": "green",
    "finished": "bold green",
    "interrupted": "yellow",
    "stopped": "yellow",
    "vanished": "red",
    "lost": "red",
    "unreadable": "bold red",
    "set aside": "red",
    "damaged": "bold red",
    "retired": "dim",
}


def print_json(value: object) -> None:
    """Dataclasses, records and what they hold, as JSON that every reader takes: what isn't a finite number is null."""
    print(json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def print_columns(rows: Sequence[Sequence[str]], *, head: Sequence[str] | None = None) -> None:
    """Aligned columns, each row on one line: a terminal may fold it, but what is copied or searched stays whole.

    Words for states are coloured on a terminal; in a pipe there is nothing but text.
    """
    console = Console(highlight=False)
    table = [head, *rows] if head else rows
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    for row in table:
        line = Text()
        for cell, width in zip(row, widths, strict=True):
            style = "dim" if row is head else _STATE_STYLES.get(cell, "")
            line.append(cell, style=style).append(" " * (width - cell_len(cell)) + _GAP)
        line.rstrip()
        console.print(line, soft_wrap=True)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return _plain(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
