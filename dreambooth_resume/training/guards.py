"""What must never enter a checkpoint, and what is done about it.

The loss and the norm of the gradient are looked at after every step: they are read anyway, so it costs nothing. The
weights and the optimizer's state are looked at before every save. A finite gradient nearly makes the rest finite: the
moments are means of gradients and of their squares, and the squares were summed without overflow for the norm. But an
optimizer can divide by nothing (`adam_epsilon` 0), so what is saved is looked at itself, by the thread that saves it.

Who meets one goes back to the last good checkpoint, and trains on other samples where it happened. Both are functions
of the step alone: whatever was saved when, and however often the run was killed, the result is the same. With one
exception: weights that an optimizer spoils while loss and gradient are finite are met by a save of that step, or else
by the next step's loss, so then it counts when the run was saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dreambooth_resume.checkpoint.format import SavedState
from dreambooth_resume.errors import NonFinite
from dreambooth_resume.runs.entries import SkippedSteps
from dreambooth_resume.training.step import StepMetrics

WINDOWS = (1, 10, 100)
"""How many steps get other samples at the first, second and third time: the batch that did it, then what led to it."""


def refuse_non_finite(metrics: StepMetrics, *, step: int) -> None:
    """Raises NonFinite for the update that was number `step`, counted from 0. An overflow in float16 is none."""
    if not math.isfinite(metrics.loss):
        raise NonFinite(f"the loss is {metrics.loss}", step=step)
    if not math.isfinite(metrics.grad_norm) and not metrics.is_overflow:
        raise NonFinite(f"the gradient's norm is {metrics.grad_norm}", step=step)


def refuse_non_finite_state(state: SavedState) -> None:
    """Raises NonFinite for the update that left this state, if there is such a number in it."""
    for name, number in state.scalars.items():
        # Such as prodigy's step size; of a norm that overflowed in float16 none is kept.
        if isinstance(number, float) and not math.isfinite(number):
            raise NonFinite(f"in the state {name} is {number}", step=state.step - 1)
    floats = {name: tensor for name, tensor in state.tensors.items() if tensor.is_floating_point()}
    # NaN and infinity survive a norm, so one number tells of all.
    if math.isfinite(torch.nn.utils.get_total_norm(list(floats.values())).item()):
        return
    bad = [name for name, tensor in floats.items() if not bool(torch.isfinite(tensor).all())]
    what = f"{bad[0]} is not finite" if bad else "its numbers have grown beyond what a float32 norm can hold"
    raise NonFinite(f"in the state {what}", step=state.step - 1)


def next_window(skipped: Sequence[SkippedSteps], error: NonFinite) -> SkippedSteps | None:
    """The steps that are to train on other samples after `error`; None if the run has gone back often enough."""
    number = len(skipped) + 1
    if number > len(WINDOWS):
        return None
    first = max(0, error.step + 1 - WINDOWS[number - 1])
    return SkippedSteps(number=number, first=first, last=error.step, why=error.why)


def gave_up(skipped: Sequence[SkippedSteps], error: NonFinite) -> str:
    """What a user reads whose run can't be helped by other samples."""
    before = ", ".join(f"step {one.last + 1} ({one.why})" for one in skipped)
    return (
        f"Step {error.step + 1}: {error.why}. This run has gone back {len(skipped)} times already: {before}. Other "
        "samples don't help, so it stops; nothing of this step was saved. Go on from the last good checkpoint with a "
        "lower --learning_rate (a tenth), or a lower --max_grad_norm. With --mixed_precision fp16, a new run with bf16 "
        "does not overflow. Was it the same picture each time? Then look at that picture."
    )
