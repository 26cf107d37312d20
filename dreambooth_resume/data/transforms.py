"""From a picture file to the pixels and sizes that SDXL trains on.

The path is that of `DreamBoothDataset` in Diffusers' `train_dreambooth_lora_sdxl.py`, with Pillow and numpy in place of
torchvision: upright RGB, shorter side resized to the resolution, flip, crop, values to [-1, 1]. With buckets the
picture is resized until it covers its bucket, and cut to that. A picture that is turned is resized until what is cut
out turned lies within it, so there are no empty corners. Shapes: C channels (3), H and W pixels.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dreambooth_resume.data.augment import NO_CHANGES, UNCHANGED, Change, Limits, recoloured, room_to_turn, turned
from dreambooth_resume.data.buckets import Bucket
from dreambooth_resume.data.dataset import Picture
from dreambooth_resume.data.images import UnreadableImageError, decode_rgb
from dreambooth_resume.data.plan import Slot
from dreambooth_resume.data.random import Stream, generator, raw_words
from dreambooth_resume.errors import RefusedToGoOn

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

# Part of every cached latent's address: raise it when the same crop of the same file gives other pixels than before.
PIXELS_VERSION = 1

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "nearest_exact": Image.Resampling.NEAREST,  # torchvision's choice for Pillow images
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}

# AUGMENT's draws (`random.Stream` has all of them).
_VARIANT_CROP_DRAW = 1
_FREE_CROP_DRAW, _CLASS_FREE_CROP_DRAW = 2, 4
_VARIANT_CHANGE_DRAW, _FREE_CHANGE_DRAW = 5, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CropOptions:
    """How pictures are cut: to squares of `resolution` pixels, where they have no bucket; and how far changed."""

    resolution: int
    center_crop: bool
    random_flip: bool
    limits: Limits = NO_CHANGES

    @property
    def square(self) -> Bucket:
        return Bucket(height=self.resolution, width=self.resolution)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """What is done to a picture: resize to this size, flip if `flip`, cut `target` whose corner is (top, left).

    If `change` turns it, it is turned about the middle of `target` before that is cut.
    """

    resized_height: int
    resized_width: int
    top: int
    left: int
    flip: bool
    target: Bucket
    change: Change = UNCHANGED


def variant_crop(
    picture: Picture, variant: int, *, seed: int, options: CropOptions, bucket: Bucket | None = None
) -> Crop:
    """The crop of one of a picture's variants: fixed for the run, so that its latents can be kept.

    `bucket` None: a square. It hangs on the picture's content and not on its place in the list: adding a picture
    changes no other's crops.
    """
    content = int(picture.sha256[:16], 16)
    rng = generator(seed, Stream.AUGMENT, step=content, slot=variant, draw=_VARIANT_CROP_DRAW)
    change_rng = generator(seed, Stream.AUGMENT, step=content, slot=variant, draw=_VARIANT_CHANGE_DRAW)
    return _draw_crop(picture, rng, options, bucket, change=options.limits.draw(change_rng))


def free_crop(picture: Picture, slot: Slot, *, seed: int, options: CropOptions) -> Crop:
    """A crop of this sample's own, for runs that encode at every step. Class pictures are cut, and never changed."""
    draw = _CLASS_FREE_CROP_DRAW if slot.is_class else _FREE_CROP_DRAW
    rng = generator(seed, Stream.AUGMENT, step=slot.step, slot=slot.slot, draw=draw)
    change_rng = generator(seed, Stream.AUGMENT, step=slot.step, slot=slot.slot, draw=_FREE_CHANGE_DRAW)
    change = UNCHANGED if slot.is_class else options.limits.draw(change_rng)
    return _draw_crop(picture, rng, options, slot.bucket, change=change)


def _draw_crop(
    picture: Picture, rng: np.random.Generator, options: CropOptions, bucket: Bucket | None, *, change: Change
) -> Crop:
    # Always three words, so that turning one option on leaves what the others do as it was.
    flip, top, left = (int(word) for word in raw_words(rng, 3))
    target = bucket or options.square
    rows, columns = room_to_turn(target, change.turn)
    covered = Bucket(height=target.height + 2 * rows, width=target.width + 2 * columns)
    height, width = resized_size(picture.height, picture.width, covered)
    spare_height, spare_width = height - covered.height, width - covered.width
    return Crop(
        resized_height=height,
        resized_width=width,
        # Python's rounding of halves to even is torchvision's too.
        top=rows + (round(spare_height / 2) if options.center_crop else top % (spare_height + 1)),
        left=columns + (round(spare_width / 2) if options.center_crop else left % (spare_width + 1)),
        flip=options.random_flip and flip % 2 == 1,
        target=target,
        change=change,
    )


def resized_size(height: int, width: int, target: Bucket) -> tuple[int, int]:
    """(height, width) of the smallest such picture that covers `target`.

    One side is the target's; the other is rounded down, as in torchvision's Resize for a square, and never below it.
    """
    if height * target.width <= width * target.height:
        return target.height, int(target.height * width / height)
    return int(target.width * height / width), target.width


def load_pixels(picture: Picture, crop: Crop, *, interpolation: str) -> FloatArray:
    """The crop as float32 [3, H, W] in [-1, 1].

    Raises RefusedToGoOn if the file isn't what it was when the run looked at it first: it would be another run.
    """
    image = recoloured(cut(_read_again(picture), crop, INTERPOLATIONS[interpolation]), crop.change)
    pixels_HWC = np.asarray(image).astype(np.float32) / np.float32(255)
    pixels_HWC = (pixels_HWC - np.float32(0.5)) / np.float32(0.5)
    return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))


def cut(image: Image.Image, crop: Crop, interpolation: Image.Resampling) -> Image.Image:
    """What `crop` says, done to a picture or to its mask; but for the colours."""
    image = image.resize((crop.resized_width, crop.resized_height), interpolation)
    if crop.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    target, degrees = crop.target, crop.change.turn
    rows, columns = room_to_turn(target, degrees)
    bottom, right = crop.top + target.height + rows, crop.left + target.width + columns
    image = image.crop((crop.left - columns, crop.top - rows, right, bottom))
    return turned(image, degrees, target, interpolation) if degrees else image


def time_ids(picture: Picture, crop: Crop) -> FloatArray:
    """SDXL's size conditions, float32 [6]: original (height, width), crop's (top, left), target (height, width).

    Source: Podell et al. 2023, arXiv:2307.01952, section 2.2; the order is `_get_add_time_ids` of Diffusers' pipeline.
    """
    values = (picture.height, picture.width, crop.top, crop.left, crop.target.height, crop.target.width)
    return np.array(values, dtype=np.float32)


def bytes_again(path: Path, sha256: str) -> bytes:
    """The file as it was when the run looked at it first, else RefusedToGoOn."""
    try:
        body = path.read_bytes()
    except OSError as error:
        raise RefusedToGoOn(f"{path} can't be read any more: {error.strerror}. Put it back and resume.") from error
    if hashlib.sha256(body).hexdigest() != sha256:
        raise RefusedToGoOn(
            f"{path} has changed since the run began. Put the old file back and resume, or start a new run."
        )
    return body


# A picture's variants are encoded one after another: decoding it for each would cost as much as the encoding.
@functools.lru_cache(maxsize=2)
def _read_again(picture: Picture) -> Image.Image:
    return decoded_again(picture.path, picture.sha256, decode_rgb)


def decoded_again(path: Path, sha256: str, decode: Callable[[bytes], Image.Image]) -> Image.Image:
    """What a file that could be decoded at the start gives now. Raises RefusedToGoOn if it no longer does."""
    try:
        return decode(bytes_again(path, sha256))
    except UnreadableImageError as bad:
        raise RefusedToGoOn(f"{path} {bad}, though it could be read before: is Pillow another version?") from bad
