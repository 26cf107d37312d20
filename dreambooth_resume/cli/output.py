"""What the reading commands print: columns for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_PIPE = 200
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
    """Aligned columns. Words for states are coloured on a terminal; in a pipe there is nothing but text."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=head is not None, header_style="dim", padding=(0, 2, 0, 0))
    for name in head or [""] * max(map(len, rows), default=0):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STATE_STYLES.get(cell, "")) for cell in row))
    width = console.width if console.is_terminal else _WIDTH_OF_A_PIPE
    with console.capture() as captured:
        console.print(table, width=width, soft_wrap=False)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


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
