"""What the reading commands print: columns for people, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

from pydantic import BaseModel
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from dreambooth_resume.errors import BadInput

_GAP = "  "
_STATE_STYLES = {
    "running": "green",
    "launched": "green",
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


def tell_at_once(text: str) -> None:
    """A line for whoever waits, beside what the command prints at its end."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def bytes_shown(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes on a terminal; in a pipe nothing: what matters is said at the end."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with _bar(columns, what) as tell:
        yield tell


@contextlib.contextmanager
def files_shown(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of files on a terminal; in a pipe nothing."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with _bar(columns, what) as tell:
        yield tell


@contextlib.contextmanager
def _bar(columns: Sequence[ProgressColumn], what: str) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def is_confirmed(question: str, *, command: str, because: str = "deletes for good") -> bool:
    """Ask at the terminal. Raises BadInput, which names --yes, where nobody is there to be asked."""
    if not sys.stdin.isatty():
        raise BadInput(f"{because}, and nobody is there to be asked", where=command, fix="add --yes")
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


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
