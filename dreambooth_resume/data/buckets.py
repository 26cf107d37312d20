"""Aspect-ratio buckets: the few shapes that pictures are cut to, so that a portrait is trained as a portrait.

All functions are pure and need no picture, only its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dreambooth_resume.config.options.data import DataOptions

_STEP = 64
_SMALLEST_STEP = 8
_STEPS_A_SIDE = 8


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Bucket:
    """A shape that pictures are cut to, in pixels."""

    height: int
    width: int

    @property
    def is_square(self) -> bool:
        return self.height == self.width

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def standard_buckets(resolution: int) -> tuple[Bucket, ...]:
    """The square of `resolution`, and shapes of at most its area from half to twice its side, sorted.

    For each side in steps of 64 pixels, the longest other side in such steps that the area allows: at 1024 these are
    33 of the 41 sizes that SDXL was trained in; each of the others is a step smaller than one of them. Below 512 the
    step is an eighth of the resolution, and at least 8. Source: Podell et al. 2023, arXiv:2307.01952, appendix I.
    """
    step = min(_STEP, max(_SMALLEST_STEP, resolution // _STEPS_A_SIDE // _SMALLEST_STEP * _SMALLEST_STEP))
    area = resolution * resolution
    first = -(-resolution // 2 // step) * step
    sides = range(max(first, step), 2 * resolution + 1, step)
    longest = {side: area // side // step * step for side in sides}
    pairs = {(side, other) for side, other in longest.items() if other in sides}
    square = (resolution, resolution)
    both_ways = {square, *pairs, *((other, side) for side, other in pairs)}
    return tuple(sorted(Bucket(height=height, width=width) for height, width in both_ways))


def buckets_of(data: DataOptions) -> tuple[Bucket, ...] | None:
    """The shapes that the run cuts its pictures to; None for squares of its resolution alone."""
    if not data.use_aspect_ratio_buckets:
        return None
    return wished_buckets(data)


def wished_buckets(data: DataOptions) -> tuple[Bucket, ...]:
    """The shapes of a run with buckets: those that are listed, or else the standard ones."""
    if data.aspect_ratio_buckets is None:
        return standard_buckets(data.resolution)
    sides = (pair.split(",") for pair in data.aspect_ratio_buckets.split(";"))
    return tuple(sorted({Bucket(height=int(height), width=int(width)) for height, width in sides}))


def nearest_bucket(width: int, height: int, buckets: Sequence[Bucket]) -> Bucket:
    """The bucket whose aspect ratio differs by the smallest factor; of equally near ones the largest, then the first.

    A factor, so that a picture on its side gets its bucket on its side.
    """
    return min(buckets, key=lambda one: (_factor(width, height, one), -one.height * one.width))


def assigned(sizes: Iterable[tuple[int, int]], buckets: Sequence[Bucket] | None) -> tuple[Bucket, ...]:
    """The bucket of each picture of (width, height), in their order; empty without buckets."""
    if buckets is None:
        return ()
    return tuple(nearest_bucket(width, height, buckets) for width, height in sizes)


def summary(found: Sequence[Bucket]) -> str:
    """`3 buckets: 1024x1024 (12), 832x1216 (7), 1216x832 (1)`, width first, the fullest first."""
    counts = sorted(Counter(found).items(), key=lambda one: (-one[1], one[0]))
    listed = ", ".join(f"{bucket} ({count})" for bucket, count in counts)
    return f"{len(counts)} bucket{'s' if len(counts) != 1 else ''}: {listed}"


def _factor(width: int, height: int, bucket: Bucket) -> float:
    # Compared by a product of whole numbers, so that a tie is a tie on every machine.
    one, other = width * bucket.height, height * bucket.width
    return max(one, other) / min(one, other)
