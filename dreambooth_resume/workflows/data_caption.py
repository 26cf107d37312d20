"""Writes a caption beside each picture that has none, so that it can be read, and mended, before a run is begun.

Kill anywhere: a caption is there whole or not at all, and the next call goes on with the first picture without one.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dreambooth_resume.data.captions import ENDINGS, CaptionChoice
from dreambooth_resume.data.dataset import find_files
from dreambooth_resume.data.images import UnreadableImageError, decode_rgb


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """Names of the files that were written, of pictures that had one, and of those that can't be read, with reasons."""

    written: tuple[str, ...]
    kept: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]


def caption_pictures(
    folder: Path,
    caption: Callable[[Image.Image], str],
    *,
    prefix: str = "",
    overwrite: bool = False,
    on_picture: Callable[[int, int], None] = lambda _done, _total: None,
) -> Captioned:
    """Write NAME.txt, `prefix` and then what `caption` says, beside each picture of the folder (or its sub folders with
    repeats) that has neither NAME.txt nor NAME.caption. `overwrite`: write NAME.txt in any case.

    A file that somebody else wrote in the meantime is kept. Raises BadInput if there are no pictures.
    """
    found = find_files(folder, CaptionChoice())
    written: list[str] = []
    kept: list[str] = []
    unreadable: list[tuple[str, str]] = []
    on_picture(0, len(found))
    for done, file in enumerate(found, start=1):
        target = file.path.with_suffix(ENDINGS[0])
        if not overwrite and any(file.path.with_suffix(ending).exists() for ending in ENDINGS):
            kept.append(file.name)
        else:
            try:
                text = f"{prefix}{caption(decode_rgb(file.path.read_bytes()))}".strip()
            except UnreadableImageError as bad:
                unreadable.append((file.name, str(bad)))
            else:
                is_new = _write(target, f"{text}\n", overwrite=overwrite)
                (written if is_new else kept).append(file.name)
        on_picture(done, len(found))
    return Captioned(written=tuple(written), kept=tuple(kept), unreadable=tuple(unreadable))


def _write(target: Path, text: str, *, overwrite: bool) -> bool:
    """Put the whole file there at once; False, and nothing done, if it is there and not to be overwritten."""
    # Hidden, so that what a kill leaves of it is nobody's caption.
    temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    temporary.write_text(text, encoding="utf-8")
    try:
        if overwrite:
            temporary.replace(target)
            return True
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError:  # no hard links there, as on mounted drives
            if target.exists():
                return False
            temporary.replace(target)
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
