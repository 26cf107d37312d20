"""Files that a command writes for people: whole or not at all, and never over somebody else's."""

from __future__ import annotations

import os
from pathlib import Path

from dreambooth_resume.errors import BadInput
from dreambooth_resume.insight.page import MARKER

_LOOKED_AT = 400


def write_page(path: Path, html: str, *, where: str) -> None:
    """Write an HTML page of ours. Raises BadInput for a file that isn't one, and for a place that can't be written."""
    target = path.expanduser()
    try:
        if target.exists() and MARKER.encode() not in _beginning(target):
            raise BadInput("is there already, and no page of dbr", where=f"{where} {path}", fix="name another file")
        # Beside its place, so that a kill leaves the old page or the new one.
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        unfinished.write_text(html, encoding="utf-8")
        unfinished.replace(target)
    except OSError as error:
        raise BadInput(
            f"can't be written: {error.strerror or error}", where=f"{where} {path}", fix="name another file"
        ) from error


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LOOKED_AT)
