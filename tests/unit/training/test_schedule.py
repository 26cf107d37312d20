"""Learning rates against `diffusers.optimization.get_scheduler`."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from diffusers.optimization import get_scheduler

from dreambooth_resume.errors import BadInput
from dreambooth_resume.training.schedule import LearningRateSchedule, LrScheduler, scaled_learning_rate


def diffusers_rates(name: str, *, peak: float, warmup: int, total: int, cycles: int, power: float) -> list[float]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = get_scheduler(
        name,
        optimizer=optimizer,
        num_warmup_steps=warmup,
        num_training_steps=total,
        num_cycles=cycles,
        power=power,
    )
    rates = []
    for _ in range(total + 3):  # a little beyond the end: what --max_train_steps raised later would meet
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", get_args(LrScheduler))
@pytest.mark.parametrize(
    ("warmup", "total", "cycles", "power"), [(0, 20, 1, 1.0), (7, 40, 1, 1.0), (5, 31, 3, 2.5), (1, 2, 2, 0.5)]
)
def test_rate_of_every_step_is_diffusers(name: LrScheduler, warmup: int, total: int, cycles: int, power: float) -> None:
    ours = LearningRateSchedule(
        name=name, peak=3e-4, warmup_steps=warmup, total_steps=total, num_cycles=cycles, power=power
    )
    theirs = diffusers_rates(name, peak=3e-4, warmup=warmup, total=total, cycles=cycles, power=power)
    assert [ours.at(step) for step in range(len(theirs))] == pytest.approx(theirs, rel=1e-12, abs=1e-18)


@pytest.mark.parametrize("name", get_args(LrScheduler))
def test_warmup_longer_than_the_run_climbs_to_the_end(name: LrScheduler) -> None:
    schedule = LearningRateSchedule(name=name, peak=1e-4, warmup_steps=500, total_steps=40)
    rates = [schedule.at(step) for step in range(40)]
    if name == "constant":
        assert rates == [1e-4] * 40
    else:
        assert rates == pytest.approx([1e-4 * step / 500 for step in range(40)])


def test_rate_is_a_function_of_the_step_alone() -> None:
    schedule = LearningRateSchedule(name="cosine", peak=1e-4, warmup_steps=5, total_steps=50)
    forwards = [schedule.at(step) for step in range(50)]
    assert [schedule.at(step) for step in reversed(range(50))] == forwards[::-1]


def test_polynomial_needs_a_rate_above_its_end() -> None:
    with pytest.raises(BadInput, match="polynomial"):
        LearningRateSchedule(name="polynomial", peak=1e-8, warmup_steps=0, total_steps=10)


@pytest.mark.parametrize(("scale_lr", "expected"), [(False, 1e-4), (True, 1e-4 * 2 * 4 * 3)])
def test_scale_lr_multiplies_by_the_pictures_of_an_update(scale_lr: bool, expected: float) -> None:
    rate = scaled_learning_rate(1e-4, scale_lr=scale_lr, train_batch_size=4, gradient_accumulation_steps=2, processes=3)
    assert rate == pytest.approx(expected)
