"""Values over steps, made fit for a chart: fewer points, and less noise. Pure functions that every chart shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

XY = tuple[float, float]
"""A point: the step, and what was measured there."""


def downsampled(points: Sequence[XY], at_most: int) -> list[XY]:
    """`at_most` points or fewer, in order: of each stretch its lowest and its highest, so no spike is lost.

    Stretches are equally long; the first and the last point are kept. A value that isn't finite is left out.
    Raises ValueError for at_most < 4.
    """
    if at_most < 4:
        raise ValueError(f"at_most is {at_most}, and a curve needs 4 points")
    finite = [point for point in points if math.isfinite(point[1])]
    if len(finite) <= at_most:
        return finite
    stretches = (at_most - 2) // 2
    inner = finite[1:-1]
    kept = [finite[0]]
    for number in range(stretches):
        stretch = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        extremes = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(extremes)
    return [*kept, finite[-1]]


def smoothed(points: Sequence[XY], weight: float) -> list[XY]:
    """The running mean that TensorBoard draws: each value counts `weight` less than the one behind it, 0 <= weight < 1.

    Without the pull towards 0 at the beginning: what the weights of so few values lack is divided out.
    Raises ValueError for another weight.
    """
    if not 0.0 <= weight < 1.0:
        raise ValueError(f"weight is {weight}, and has to lie between 0 and 1")
    found: list[XY] = []
    mean, present = 0.0, 0.0
    for x, y in points:
        if not math.isfinite(y):
            continue
        mean = mean * weight + (1.0 - weight) * y
        present = present * weight + (1.0 - weight)
        found.append((x, mean / present))
    return found


def smoothing_weight(count: int) -> float:
    """A weight that suits so many points: the mean reaches over a thirtieth of them, and over five at least."""
    return 0.0 if count < 30 else 1.0 - 1.0 / max(5.0, count / 30.0)
