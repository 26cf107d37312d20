"""From a stitched curve to the few points that a chart can show. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Literal

from dreambooth_resume.runs.curves import Curve, CurvePoint

ChartKind = Literal["loss", "lr", "speed", "memory"]
POINTS_SHOWN = 600
COLOURS = 6
"""For lines of several runs: `c0` to `c5` of page.css."""
SMOOTHING = 0.98
"""Of the smoothed line: each point keeps so much of the one before, less at the beginning."""

Point = tuple[int, float]


def smoothed(points: Sequence[Point], *, keep: float = SMOOTHING) -> list[Point]:
    """An exponential moving average without the pull of its start: Adam's bias correction."""
    mean, weight = 0.0, 0.0
    made: list[Point] = []
    for step, value in points:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        made.append((step, mean / weight))
    return made


def thinned(points: Sequence[Point], *, at_most: int = POINTS_SHOWN) -> list[Point]:
    """At most so many points, in order: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= at_most:
        return list(points)
    stretches = max(1, at_most // 2)
    made: list[Point] = []
    for number in range(stretches):
        part = points[number * len(points) // stretches : (number + 1) * len(points) // stretches]
        low, high = min(part, key=lambda one: one[1]), max(part, key=lambda one: one[1])
        made += [low] if low == high else sorted((low, high))
    return made


def chart(curve: Curve, kind: ChartKind, *, effective_batch: int | None) -> str:
    """The chart as JSON for `page.js`: lines of [step, value], marks where the run was interrupted, the last step."""
    lines: list[dict[str, object]] = []
    if kind == "loss":
        raw = _values(curve.points, lambda point: point.loss)
        lines += [_line("loss", "raw", raw), _line("smoothed", "main", smoothed(raw))]
        lost = [_line("lost", "lost", _values(part, lambda point: point.loss)) for part in curve.lost]
        lines += [one for one in lost if one["points"]]
        if held_out := _values(curve.points, lambda point: point.val_loss):
            lines.append(_line("held-out pictures", "second", held_out))
    elif kind == "lr":
        lines.append(_line("learning rate", "main", _values(curve.points, lambda point: point.learning_rate)))
    elif kind == "memory":
        lines.append(_line("GB", "main", _values(curve.points, _gigabytes)))
    else:
        batch = effective_batch or 1
        rate = _values(curve.points, lambda point: batch / point.seconds if point.seconds else None)
        lines += [_line("samples/s", "raw", rate), _line("smoothed", "main", smoothed(rate))]
    marks = [
        {
            "step": one.resumed_step,
            "text": f"attempt {one.attempt} reached step {one.reached_step}: {one.reason}; "
            f"went on from {one.resumed_step}",
        }
        for one in curve.interruptions
    ]
    return json.dumps({"lines": lines, "marks": marks, "last": curve.max_train_steps}, allow_nan=False)


def _gigabytes(point: CurvePoint) -> float | None:
    return point.memory_bytes / 1e9 if point.memory_bytes is not None else None


def losses_together(runs: Sequence[tuple[str, Curve]], *, held_out: bool = False) -> str:
    """The losses of several runs over the same steps, smoothed, each in a colour of its own (`COLOURS`).

    `held_out`: the losses on held-out pictures, as they were measured.
    """
    lines = []
    for place, (name, curve) in enumerate(runs):
        if held_out:
            points = _values(curve.points, lambda point: point.val_loss)
        else:
            points = smoothed(_values(curve.points, lambda point: point.loss))
        lines.append(_line(name, f"c{place % COLOURS}", points))
    last = max((curve.max_train_steps or 0 for _, curve in runs), default=0)
    return json.dumps({"lines": lines, "marks": [], "last": last}, allow_nan=False)


def _line(name: str, style: str, points: Sequence[Point]) -> dict[str, object]:
    return {"name": name, "style": style, "points": [[step, _short(value)] for step, value in thinned(points)]}


def _values(points: Sequence[CurvePoint], value: Callable[[CurvePoint], float | None]) -> list[Point]:
    found = ((point.step, value(point)) for point in points)
    return [(step, number) for step, number in found if number is not None and math.isfinite(number)]


def _short(value: float) -> float:
    """Five digits: what a screen can show."""
    return float(f"{value:.5g}")
