"""Where two trainings of the same steps begin to differ, and what that alone says about the cause.

In an exact resume nothing differs: a step's samples, learning rate, loss and gradient norm are the same bits whoever
trains it. A loss is computed before the step's update, so the first thing that differs tells which part was other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dreambooth_resume.runs.curves import CurvePoint

What = Literal["samples", "learning rate", "loss", "gradient norm"]
Part = Literal["samples", "learning rate", "weights", "gradient", "update"]
"""`weights`: the weights that a step begins with, or how the loss is computed of them. `gradient`: the backward pass.
`update`: what the optimizer made of it."""

ROUNDING = 0.02
"""Losses and norms that differ by more than this share of themselves are not the same numbers, rounded otherwise."""
_ROUNDED: Mapping[What, float] = {"loss": ROUNDING, "gradient norm": 5 * ROUNDING}
"""A gradient is a sum of many products, and its norm is rounded more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDifference:
    """The first value that differs between two trainings of the same steps."""

    step: int
    what: What
    before: float
    after: float
    part: Part
    """What it points to, given all that is the same before it."""

    @property
    def relative(self) -> float:
        """By which share of the greater one they differ."""
        return relative_difference(self.before, self.after)


def relative_difference(before: float, after: float) -> float:
    if before == after or (math.isnan(before) and math.isnan(after)):
        return 0.0
    if not (math.isfinite(before) and math.isfinite(after)):
        return math.inf
    return abs(before - after) / max(abs(before), abs(after))


def first_difference(
    before: Iterable[CurvePoint], after: Iterable[CurvePoint], *, base_step: int, rounded: bool = False
) -> StepDifference | None:
    """The first difference over the steps that both have; None if there is none.

    `base_step` is the step whose state `after` began from: in the step behind it the weights are those of a checkpoint.
    Values that one side has no record of are not compared. `rounded`: losses and norms may differ by rounding.
    """
    then = {point.step: point for point in before}
    for point in sorted(after, key=lambda one: one.step):
        if (other := then.get(point.step)) is None:
            continue
        for what, was, is_now in _values(other, point):
            allowed = _ROUNDED.get(what, 0.0) if rounded else 0.0
            if was is not None and is_now is not None and relative_difference(was, is_now) > allowed:
                part = _part(what, is_first=point.step == base_step + 1)
                return StepDifference(step=point.step, what=what, before=was, after=is_now, part=part)
    return None


def greatest_difference(before: Iterable[CurvePoint], after: Iterable[CurvePoint]) -> float:
    """By which share the losses differ at most, over the steps that both have; 0.0 without such steps."""
    then = {point.step: point.loss for point in before}
    return max((relative_difference(then[one.step], one.loss) for one in after if one.step in then), default=0.0)


def compared_steps(before: Sequence[CurvePoint], after: Sequence[CurvePoint]) -> int:
    return len({point.step for point in before} & {point.step for point in after})


def _values(then: CurvePoint, now: CurvePoint) -> tuple[tuple[What, float | None, float | None], ...]:
    """In the order in which a step comes by them."""
    return (
        ("samples", then.samples, now.samples),
        ("learning rate", then.learning_rate, now.learning_rate),
        ("loss", then.loss, now.loss),
        ("gradient norm", then.grad_norm, now.grad_norm),
    )


def _part(what: What, *, is_first: bool) -> Part:
    if what == "loss":
        return "weights" if is_first else "update"
    parts: dict[What, Part] = {"samples": "samples", "learning rate": "learning rate", "gradient norm": "gradient"}
    return parts[what]
