"""What differs first says what was other: each case on curves alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dreambooth_resume.insight.differences import Part, first_difference, greatest_difference
from dreambooth_resume.insight.sameness import other_tensor
from dreambooth_resume.runs.curves import CurvePoint

BASE_STEP = 4


def curve(first: int = 5, last: int = 9, **changed: float) -> list[CurvePoint]:
    """Steps `first` to `last`, with the changes in the last one."""
    points = [
        CurvePoint(step=step, attempt=1, loss=0.1 * step, learning_rate=1e-4, grad_norm=1.0, samples=step * 11)
        for step in range(first, last + 1)
    ]
    return [*points[:-1], replace(points[-1], **changed)]  # type: ignore[arg-type]


def test_the_same_steps_have_no_difference() -> None:
    assert first_difference(curve(), curve(), base_step=BASE_STEP) is None
    assert first_difference(curve(last=6), curve(first=7), base_step=BASE_STEP) is None, "no step in common"


@pytest.mark.parametrize(
    ("changed", "last", "part"),
    [
        ({"samples": 1, "loss": 9.0}, 5, "samples"),
        ({"learning_rate": 2e-4}, 5, "learning rate"),
        ({"loss": 0.5000001, "grad_norm": 1.1}, 5, "weights"),
        ({"grad_norm": 1.0000001}, 5, "gradient"),
        ({"loss": 0.7}, 6, "update"),
        ({"grad_norm": 1.1}, 7, "gradient"),
    ],
)
def test_what_differs_first_tells_the_part(changed: dict[str, float], last: int, part: Part) -> None:
    found = first_difference(curve(last=last), curve(last=last, **changed), base_step=BASE_STEP)
    assert found is not None
    assert (found.step, found.part) == (last, part)


def test_values_that_a_release_did_not_keep_are_not_compared() -> None:
    older = [replace(point, samples=None, grad_norm=None) for point in curve()]
    assert first_difference(older, curve(), base_step=BASE_STEP) is None


def test_nan_is_the_same_as_nan_and_unlike_a_number() -> None:
    assert first_difference(curve(loss=math.nan), curve(loss=math.nan), base_step=BASE_STEP) is None
    found = first_difference(curve(), curve(loss=math.nan), base_step=BASE_STEP)
    assert found is not None
    assert found.relative == math.inf


def test_the_greatest_difference_is_a_share_of_the_loss() -> None:
    assert greatest_difference(curve(), curve(loss=1.8)) == pytest.approx(0.5)
    assert greatest_difference(curve(), []) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64])
def test_tensors_are_compared_bit_by_bit(dtype: torch.dtype) -> None:
    was = torch.arange(7).to(dtype)
    assert other_tensor("w", {"w": was}, {"w": was.clone()}) is None
    now = was.clone()
    now[3] = 9
    found = other_tensor("w", {"w": was}, {"w": now})
    assert found is not None
    assert (found.differing, found.numbers, found.largest) == (1, 7, 6.0)


def test_the_same_number_in_other_bits_and_a_missing_tensor_are_others() -> None:
    zero, minus = torch.zeros(2), torch.tensor([0.0, -0.0])
    assert other_tensor("w", {"w": zero}, {"w": minus}) is not None
    assert other_tensor("w", {"w": zero}, {"w": zero.double()}) is not None
    missing = other_tensor("w", {"w": zero}, {})
    assert missing is not None
    assert missing.differing == 2
    nan = torch.full((2,), math.nan)
    assert other_tensor("w", {"w": nan}, {"w": nan.clone()}) is None
