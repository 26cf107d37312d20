"""Pictures that were dropped into the page, kept from a start on until their run has them in its home.

Each set of pictures lies in a folder named after its content, with a file beside it that names the homes for which it
was kept. That file goes first: killed before the pictures are whole, the set is of a home without a run, and removed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

KEPT_SECONDS = 24 * 3600.0
"""However little it is needed, a set is kept so long: its start may be on its way."""


def keep(pictures: Path, folder: Path, home: str) -> Path:
    """Copy a set of pictures below `folder` for the run that begins in `home`; returns where. Raises OSError."""
    target = folder / pictures.name
    folder.mkdir(parents=True, exist_ok=True)
    _write(_list_of(target), json.dumps(sorted({*_homes_of(target), home})).encode())
    target.mkdir(exist_ok=True)
    for source in sorted(pictures.iterdir()):
        if not (target / source.name).is_file():
            _write(target / source.name, source.read_bytes())
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
            # The list goes last: killed in between, the next start goes on with it.
            shutil.rmtree(target, ignore_errors=True)
            listed.unlink(missing_ok=True)
            removed.append(target)
    return removed


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
