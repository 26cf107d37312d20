"""Pictures turned a little and in changed colours: what is drawn for one, and how it is done to it.

The options are OneTrainer's, as are the order and the meaning of their strengths; brightness, contrast and saturation
are Pillow's enhancers, which torchvision's `adjust_*` use too, and the hue is moved as there. What is drawn is rounded
to decimals, so that it can be part of an address and is the same on every machine.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image, ImageEnhance

from dreambooth_resume.config.options.data import DataOptions
from dreambooth_resume.data.buckets import Bucket
from dreambooth_resume.data.random import raw_words

_HUNDREDTHS, _THOUSANDTHS = 100, 1000
_TURNING = {
    Image.Resampling.NEAREST: Image.Resampling.NEAREST,
    Image.Resampling.BILINEAR: Image.Resampling.BILINEAR,
}
"""Pillow turns with these and with bicubic alone, which stands in for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What was drawn for one picture: degrees counter-clockwise, three factors, and a part of the colour circle."""

    turn: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


UNCHANGED = Change()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far pictures are changed, either way. `turn` is in degrees, and `hue` 1 is half of the colour circle."""

    turn: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def draw(self, rng: np.random.Generator) -> Change:
        """A change within the limits, all of them equally likely."""
        # Always five words, so that turning one option on leaves what the others do as it was.
        turn, brightness, contrast, saturation, hue = (int(word) for word in raw_words(rng, 5))
        return Change(
            turn=_within(self.turn, turn, _HUNDREDTHS),
            brightness=round(1 + _within(self.brightness, brightness, _THOUSANDTHS), 3),
            contrast=round(1 + _within(self.contrast, contrast, _THOUSANDTHS), 3),
            saturation=round(1 + _within(self.saturation, saturation, _THOUSANDTHS), 3),
            hue=_within(self.hue / 2, hue, _THOUSANDTHS),
        )


NO_CHANGES = Limits()


def limits_of(data: DataOptions) -> Limits:
    return Limits(
        turn=data.random_rotate,
        brightness=data.random_brightness,
        contrast=data.random_contrast,
        saturation=data.random_saturation,
        hue=data.random_hue,
    )


def recipe_of(change: Change) -> dict[str, object]:
    """The change as part of an address; empty for none, so that what is in caches already keeps its key."""
    return {} if change == UNCHANGED else {"change": asdict(change)}


def room_to_turn(target: Bucket, degrees: float) -> tuple[int, int]:
    """(rows, columns) that are needed on each side of `target` for it to be filled when it is cut out turned."""
    if degrees == 0:
        return 0, 0
    angle = math.radians(degrees)
    across, along = abs(math.sin(angle)), abs(math.cos(angle))
    height = target.height * along + target.width * across
    width = target.width * along + target.height * across
    # One more: interpolation looks at the pixel beside.
    return max(0, math.ceil((height - target.height) / 2)) + 1, max(0, math.ceil((width - target.width) / 2)) + 1


def turned(image: Image.Image, degrees: float, target: Bucket, interpolation: Image.Resampling) -> Image.Image:
    """`image`, which is `target` with the room to turn around it, turned about its middle and cut to `target`."""
    image = image.rotate(degrees, _TURNING.get(interpolation, Image.Resampling.BICUBIC))
    top, left = (image.height - target.height) // 2, (image.width - target.width) // 2
    return image.crop((left, top, left + target.width, top + target.height))


def recoloured(image: Image.Image, change: Change) -> Image.Image:
    """The RGB image with other brightness, contrast, saturation and hue, in this order."""
    for enhancer, factor in (
        (ImageEnhance.Brightness, change.brightness),
        (ImageEnhance.Contrast, change.contrast),
        (ImageEnhance.Color, change.saturation),
    ):
        if factor != 1:
            image = enhancer(image).enhance(factor)
    # Hues have 256 steps: going there and back would cost a little even where nothing is moved.
    steps = round(change.hue * 256) % 256
    if steps == 0:
        return image
    hue, saturation, value = image.convert("HSV").split()
    moved = Image.fromarray(np.asarray(hue) + np.uint8(steps))
    return Image.merge("HSV", (moved, saturation, value)).convert("RGB")


def _within(limit: float, word: int, parts: int) -> float:
    """One of the numbers from -limit to limit in steps of 1/parts."""
    most = round(limit * parts)
    return (word % (2 * most + 1) - most) / parts
