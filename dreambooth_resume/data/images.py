"""Bytes of a picture file → upright RGB, whatever the file's colour mode."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Only formats that Pillow decodes by itself: its list for everything includes EPS, which starts Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")
_BACKGROUND = (255, 255, 255)
# What Pillow's decoders raise on damaged files; UnidentifiedImageError is an OSError.
_DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class UnreadableImageError(Exception):
    """A picture that can't be used. The text goes on after its name: "photo.jpg is cut short"."""


def decode_rgb(body: bytes) -> Image.Image:
    """The picture in `body`, fully decoded, RGB, turned as its EXIF orientation says; of an animation the first frame.

    As Diffusers' script has it (`exif_transpose`, then `convert("RGB")`; colour profiles are left alone), but for three
    things where `convert` spoils the picture: what is transparent becomes white instead of whatever colour the file
    hides there, 16-bit grey is scaled to 8 bits instead of cut off at 255, and grey of unknown range is refused.
    Raises UnreadableImageError.
    """
    return _opened(body, _to_rgb)


def decode_mask(body: bytes) -> Image.Image:
    """The mask in `body` as 8-bit grey, turned as its EXIF orientation says: white counts, black and transparent don't.

    Raises UnreadableImageError.
    """
    return _opened(body, _to_mask)


def alpha_of(body: bytes) -> Image.Image | None:
    """How opaque the picture in `body` is, as 8-bit grey, turned as the picture; None if nothing of it is transparent.

    Raises UnreadableImageError.
    """

    def alpha(image: Image.Image) -> Image.Image:
        return image.convert("RGBA").getchannel("A") if image.has_transparency_data else Image.new("L", (1, 1), 255)

    found = _opened(body, alpha)
    return None if found.getextrema() == (255, 255) else found


def _opened(body: bytes, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if not body:
        raise UnreadableImageError("is empty")
    try:
        with Image.open(io.BytesIO(body), formats=_known_formats()) as image:
            image.load()
            return convert(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise UnreadableImageError("is not a picture, or of a kind that can't be read here") from error
    except _DAMAGED as error:
        raise UnreadableImageError(f"is damaged or cut short ({error})") from error


def frames_in(body: bytes) -> int:
    """How many pictures the file holds whose first can be read; 1 for what a camera puts beside it (MPO)."""
    try:
        with Image.open(io.BytesIO(body), formats=_known_formats()) as image:
            return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except _DAMAGED:
        return 1  # what comes behind the first is damaged, and isn't used


def _known_formats() -> list[str]:
    """FORMATS less what this Pillow was built without: naming such a one is a KeyError for every file."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _grey_to_rgb(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*_BACKGROUND, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    if image.mode == "F":
        raise UnreadableImageError("has brightness as fractions of unknown range; save it with 8 or 16 bits")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_mask(image: Image.Image) -> Image.Image:
    if image.mode != "F" and not image.mode.startswith("I") and image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        return Image.alpha_composite(canvas, layer).convert("L")
    return _to_rgb(image).convert("L")


def _grey_to_rgb(image: Image.Image) -> Image.Image:
    """Whole-number grey with more than 8 bits: 0..65535 → 0..255, rounded."""
    grey_HW = np.asarray(image).astype(np.int64)
    if grey_HW.min() < 0 or grey_HW.max() > 65535:
        raise UnreadableImageError("has brightness beyond 16 bits; save it with 8 or 16 bits")
    return Image.fromarray(((grey_HW + 128) // 257).astype(np.uint8)).convert("RGB")
