"""Pictures that were dropped into the page, kept from a start on until their run has them in its home.

Each set of pictures lies in a folder named after its content, with a file beside it that names the homes for which it
was kept. The folder comes and goes as a whole, under a name of its own meanwhile: a run that reads it again would take
a part of its pictures for another data set.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

KEPT_SECONDS = 24 * 3600.0
"""However little it is needed, a set is kept so long: its start may be on its way."""


def keep(pictures: Path, folder: Path, home: str) -> Path:
    """Copy a set of pictures below `folder` for the run that begins in `home`; returns where. Raises OSError."""
    target = folder / pictures.name
    folder.mkdir(parents=True, exist_ok=True)
    _write(_list_of(target), json.dumps(sorted({*_homes_of(target), home})).encode())
    if not target.exists():
        partial = folder / f".{target.name}.{uuid.uuid4().hex}.tmp"
        shutil.copytree(pictures, partial)
        try:
            partial.rename(target)
        except OSError:  # another start had the same pictures in the same moment
            shutil.rmtree(partial, ignore_errors=True)
            if not target.exists():
                raise
    return target


def tidy(folder: Path, needs_them: Callable[[str], bool], *, now: float | None = None) -> list[Path]:
    """Remove the sets that no run needs, and return them. `needs_them` is asked for each home that a set was kept for.

    What nobody has listed is left alone: an earlier release, or somebody else, put it there.
    """
    removed = []
    for listed in sorted(folder.glob("*.json")):
        target = listed.with_suffix("")
        age = (time.time() if now is None else now) - listed.stat().st_mtime
        homes = _homes_of(target)
        if homes and age > KEPT_SECONDS and not any(needs_them(home) for home in homes):
            gone = folder / f".{target.name}.{uuid.uuid4().hex}.gone"
            with contextlib.suppress(FileNotFoundError):
                target.rename(gone)
            listed.unlink(missing_ok=True)
            removed.append(target)
    for half in (*folder.glob(".*.gone"), *_older(folder.glob(".*.tmp"))):
        shutil.rmtree(half, ignore_errors=True)
    return removed


def _older(parts: Iterable[Path]) -> list[Path]:
    """Those that nobody can be writing any more."""
    return [part for part in parts if part.is_dir() and time.time() - part.stat().st_mtime > KEPT_SECONDS]


def _list_of(target: Path) -> Path:
    return target.with_suffix(".json")


def _homes_of(target: Path) -> tuple[str, ...]:
    try:
        found = json.loads(_list_of(target).read_bytes())
    except (OSError, ValueError):
        return ()
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()


def _write(path: Path, body: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(body)
    partial.replace(path)
