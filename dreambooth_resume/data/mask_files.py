"""Which files are masks, and whose: `dog-mask.png` beside `dog.jpg`. A mask is never a picture itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from dreambooth_resume.data.images import UnreadableImageError, alpha_of, decode_mask

# The second is OneTrainer's.
_ENDINGS = ("-mask.png", "-masklabel.png")
# A mask may be smaller or larger than its picture, as long as it has the picture's shape: sides are whole numbers.
_SHAPE_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """A mask's file: one of its own, or the picture's, whose transparency it is."""

    path: Path
    sha256: str
    size_bytes: int
    """0 if it is the picture's own file."""


def masks_among(names: Sequence[str]) -> dict[str, str]:
    """Picture's name to the name of its mask, both as given (paths with slashes).

    A name that ends like a mask's and has no picture beside it is a picture's.
    """
    by_stem: dict[str, list[str]] = {}
    for name in names:
        by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(name)
    found: dict[str, str] = {}
    for ending in reversed(_ENDINGS):
        for name in names:
            if name.lower().endswith(ending):
                found |= dict.fromkeys(by_stem.get(name[: -len(ending)], ()), name)
    return found


def look_at_mask(path: Path | None, picture: Path, body: bytes, *, width: int, height: int) -> Mask | None:
    """The mask in `path`, or else the transparency of the picture in `body`; None if it has neither.

    Raises UnreadableImageError for a mask that can't be read, is of another shape, or marks nothing.
    """
    if path is None:
        alpha = alpha_of(body)
        if alpha is None:
            return None
        _check(alpha, "is transparent everywhere", width=width, height=height)
        return Mask(path=picture, sha256=hashlib.sha256(body).hexdigest(), size_bytes=0)
    try:
        mask_body = path.read_bytes()
        mask = decode_mask(mask_body)
    except OSError as error:
        raise UnreadableImageError(f"has a mask that can't be opened: {path.name}: {error.strerror}") from error
    except UnreadableImageError as bad:
        raise UnreadableImageError(f"has a mask that can't be used: {path.name} {bad}") from bad
    _check(mask, f"has a mask that is black everywhere: {path.name}", width=width, height=height)
    if mask_body == body:
        # A mask with its picture's digest means the picture's transparency, in the home's lists as well.
        raise UnreadableImageError(f"has a mask that is a copy of the picture itself: {path.name}")
    return Mask(path=path, sha256=hashlib.sha256(mask_body).hexdigest(), size_bytes=len(mask_body))


def _check(mask: Image.Image, nothing: str, *, width: int, height: int) -> None:
    if mask.getextrema() == (0, 0):
        raise UnreadableImageError(nothing)
    one, other = mask.width * height, mask.height * width
    if max(one, other) > (1 + _SHAPE_TOLERANCE) * min(one, other):
        raise UnreadableImageError(
            f"has a mask of another shape: {mask.width} x {mask.height} pixels for {width} x {height}"
        )
