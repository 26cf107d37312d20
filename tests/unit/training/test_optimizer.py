"""Learning rates against `diffusers.optimization.get_scheduler`, AdamW and its state against torch's."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from diffusers.optimization import get_scheduler

from dreambooth_resume.errors import BadInput
from dreambooth_resume.training.optimizer import (
    AdamWOptions,
    LearningRateSchedule,
    LrScheduler,
    build_adamw,
    load_optimizer_tensors,
    optimizer_tensors,
    scaled_learning_rate,
)


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


def named_parameters(seed: int) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.lora_A.weight": (4, 33), "a.lora_B.weight": (17, 4), "b.lora_A.weight": (4, 8)}
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def run_updates(
    parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, steps: range, rate: float = 1e-2
) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()


def test_updates_are_those_of_torch_adamw() -> None:
    options = AdamWOptions(beta1=0.8, beta2=0.95, weight_decay=0.1, epsilon=1e-6)
    ours, theirs = named_parameters(0), named_parameters(0)
    plain = torch.optim.AdamW(
        theirs.values(), betas=(0.8, 0.95), weight_decay=0.1, eps=1e-6, fused=False, foreach=False
    )
    run_updates(ours, build_adamw(ours, options), range(10))
    run_updates(theirs, plain, range(10))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6)


def test_state_restored_half_way_goes_on_bit_for_bit() -> None:
    whole = named_parameters(1)
    run_updates(whole, build_adamw(whole, AdamWOptions()), range(8))

    first = named_parameters(1)
    optimizer = build_adamw(first, AdamWOptions())
    run_updates(first, optimizer, range(5))
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, first).items()}

    second = {name: torch.nn.Parameter(parameter.detach().clone()) for name, parameter in first.items()}
    resumed = build_adamw(second, AdamWOptions())
    load_optimizer_tensors(resumed, second, saved)
    run_updates(second, resumed, range(5, 8))
    for name in whole:
        assert torch.equal(whole[name], second[name])


def test_state_has_the_same_names_and_shapes_before_the_first_update_as_after() -> None:
    parameters = named_parameters(2)
    optimizer = build_adamw(parameters, AdamWOptions())
    before = {name: (tensor.shape, tensor.dtype) for name, tensor in optimizer_tensors(optimizer, parameters).items()}
    run_updates(parameters, optimizer, range(1))
    after = {name: (tensor.shape, tensor.dtype) for name, tensor in optimizer_tensors(optimizer, parameters).items()}
    assert list(before) == sorted(before)
    assert before == after


def test_state_of_another_adapter_is_refused() -> None:
    parameters = named_parameters(3)
    optimizer = build_adamw(parameters, AdamWOptions())
    saved = dict(optimizer_tensors(optimizer, parameters))
    del saved["step.a.lora_A.weight"]
    with pytest.raises(ValueError, match=r"step\.a\.lora_A\.weight"):
        load_optimizer_tensors(optimizer, parameters, saved)
    saved = {**optimizer_tensors(optimizer, parameters), "exp_avg.a.lora_A.weight": torch.zeros(8, 33)}
    with pytest.raises(ValueError, match="exp_avg"):
        load_optimizer_tensors(optimizer, parameters, saved)


def test_half_precision_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        build_adamw({"a": torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))}, AdamWOptions())
