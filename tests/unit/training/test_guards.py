"""What counts as a number that must not be saved, and which steps get other samples."""

from __future__ import annotations

import math

import pytest
import torch

from dreambooth_resume.checkpoint.format import SavedState
from dreambooth_resume.errors import NonFinite
from dreambooth_resume.runs.entries import SkippedSteps
from dreambooth_resume.training.guards import next_window, refuse_non_finite, refuse_non_finite_state
from dreambooth_resume.training.step import LOSS_SCALE, StepMetrics

pytestmark = pytest.mark.quick


def metrics(loss: float, grad_norm: float, loss_scale: float | None = None) -> StepMetrics:
    more = {} if loss_scale is None else {LOSS_SCALE: loss_scale}
    return StepMetrics(loss=loss, grad_norm=grad_norm, learning_rate=1e-4, more=more)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_or_a_norm_that_is_not_finite_is_refused(bad: float) -> None:
    refuse_non_finite(metrics(0.1, 2.0), step=4)
    with pytest.raises(NonFinite, match=r"Step 5: the loss is"):
        refuse_non_finite(metrics(bad, 2.0), step=4)
    with pytest.raises(NonFinite, match="the gradient's norm is"):
        refuse_non_finite(metrics(0.1, bad), step=4)


def test_an_overflow_is_the_scalers_business_until_nothing_is_scaled_any_more() -> None:
    refuse_non_finite(metrics(0.1, math.inf, 65536.0), step=4)
    refuse_non_finite(metrics(0.1, math.nan, 2.0), step=4)
    with pytest.raises(NonFinite):
        refuse_non_finite(metrics(0.1, math.inf, 1.0), step=4)
    with pytest.raises(NonFinite):
        refuse_non_finite(metrics(math.nan, math.nan, 65536.0), step=4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_number_anywhere_in_the_state_is_found_and_named(bad: float) -> None:
    tensors = {"lora.a": torch.ones(3), "optimizer.exp_avg.a": torch.zeros(3), "optimizer.count": torch.tensor(2)}
    state = SavedState(step=5, tensors=tensors, scalars={})
    refuse_non_finite_state(state)
    tensors["optimizer.exp_avg.a"][1] = bad
    with pytest.raises(NonFinite, match=r"Step 5: in the state optimizer\.exp_avg\.a is not finite") as raised:
        refuse_non_finite_state(state)
    assert raised.value.step == 4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_number_beside_the_tensors_is_found_too(bad: float) -> None:
    scalars = {"optimizer.d.unet": 1e-6, "grad_norm": None, "lr_scheduler": "constant", "optimizer.k.unet": 4}
    refuse_non_finite_state(SavedState(step=5, tensors={"lora.a": torch.ones(3)}, scalars=scalars))
    state = SavedState(step=5, tensors={"lora.a": torch.ones(3)}, scalars={**scalars, "optimizer.d.unet": bad})
    with pytest.raises(NonFinite, match=r"Step 5: in the state optimizer\.d\.unet is"):
        refuse_non_finite_state(state)


def test_windows_grow_and_end_with_the_step_and_there_are_three() -> None:
    skipped: list[SkippedSteps] = []
    for first in (250, 241, 151):
        window = next_window(skipped, NonFinite("the loss is nan", step=250))
        assert window is not None
        assert (window.number, window.first, window.last) == (len(skipped) + 1, first, 250)
        skipped.append(window)
    assert next_window(skipped, NonFinite("the loss is nan", step=250)) is None


def test_no_window_begins_before_the_run() -> None:
    before = SkippedSteps(number=1, first=3, last=3, why="the loss is nan")
    window = next_window([before], NonFinite("the loss is nan", step=3))
    assert window is not None
    assert (window.first, window.last) == (0, 3)
