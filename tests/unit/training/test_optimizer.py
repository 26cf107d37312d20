"""Every optimizer against its library's own, and its state: whole from the start, restored to the last bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.training.optimizer import Optimizer
from dreambooth_resume.training.optimizers.base import ParameterGroup
from tests.fakes.optimizers import constant, one_group

Parameters = dict[str, torch.nn.Parameter]


@dataclass(frozen=True)
class Kind:
    """One optimizer of the table: options that ask for it, and its state's names."""

    options: OptimizationOptions
    rate: float
    tensors: tuple[str, ...]
    scalars: tuple[str, ...] = ()


KINDS = {
    "AdamW": Kind(OptimizationOptions(), 1e-2, ("exp_avg", "exp_avg_sq", "step")),
}


def named_parameters(seed: int) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.lora_A.weight": (4, 33), "a.lora_B.weight": (17, 4), "b.lora_A.weight": (4, 8)}
    parameters = {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
    parameters["a.lora_B.weight"].data.zero_()  # as a fresh adapter has it
    return parameters


def run_updates(parameters: Parameters, optimizer: torch.optim.Optimizer, steps: range, rate: float = 1e-2) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def two_groups(parameters: Parameters, options: OptimizationOptions, *, decays: tuple[float, float]) -> Optimizer:
    split = {"unet": ("a.lora_A.weight", "a.lora_B.weight"), "text_encoder": ("b.lora_A.weight",)}
    return Optimizer(
        [
            ParameterGroup(
                name=group,
                parameters={name: parameters[name] for name in names},
                schedule=constant(1e-3),
                weight_decay=decay,
            )
            for (group, names), decay in zip(split.items(), decays, strict=True)
        ],
        options,
    )


def test_updates_are_those_of_torch_adamw() -> None:
    options = OptimizationOptions(adam_beta1=0.8, adam_beta2=0.95, adam_weight_decay=0.1, adam_epsilon=1e-6)
    ours, theirs = named_parameters(0), named_parameters(0)
    plain = torch.optim.AdamW(
        theirs.values(), betas=(0.8, 0.95), weight_decay=0.1, eps=1e-6, fused=False, foreach=False
    )
    run_updates(ours, one_group(ours, options).torch_optimizer, range(10))
    run_updates(theirs, plain, range(10))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6)


def test_each_group_decays_at_its_own_rate() -> None:
    ours, theirs = named_parameters(0), named_parameters(0)
    plain = torch.optim.AdamW(
        [
            {"params": [theirs["a.lora_A.weight"], theirs["a.lora_B.weight"]], "weight_decay": 0.5},
            {"params": [theirs["b.lora_A.weight"]], "weight_decay": 0.0},
        ]
    )
    run_updates(ours, two_groups(ours, OptimizationOptions(), decays=(0.5, 0.0)).torch_optimizer, range(10))
    run_updates(theirs, plain, range(10))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_state_restored_half_way_goes_on_bit_for_bit(kind: str) -> None:
    options, rate = KINDS[kind].options, KINDS[kind].rate
    whole = named_parameters(1)
    never_stopped = one_group(whole, options)
    run_updates(whole, never_stopped.torch_optimizer, range(8), rate)

    first = named_parameters(1)
    optimizer = one_group(first, options)
    run_updates(first, optimizer.torch_optimizer, range(5), rate)
    saved = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    numbers = json.loads(json.dumps(optimizer.scalars()))

    second = {name: torch.nn.Parameter(parameter.detach().clone()) for name, parameter in first.items()}
    resumed = one_group(second, options)
    resumed.load(saved, numbers)
    run_updates(second, resumed.torch_optimizer, range(5, 8), rate)
    for name in whole:
        assert torch.equal(whole[name], second[name])
    assert resumed.scalars() == never_stopped.scalars()


@pytest.mark.parametrize("kind", KINDS)
def test_state_is_whole_before_the_first_update_and_keeps_its_tensors(kind: str) -> None:
    parameters = named_parameters(2)
    optimizer = one_group(parameters, KINDS[kind].options)

    def layout() -> dict[str, Any]:
        tensors = optimizer.tensors()
        assert list(tensors) == sorted(tensors)
        return {name: (tensor.shape, tensor.dtype, tensor.data_ptr()) for name, tensor in tensors.items()}

    before = layout()
    assert set(before) == {f"{key}.{name}" for key in KINDS[kind].tensors for name in parameters}
    assert tuple(optimizer.scalars()) == KINDS[kind].scalars
    run_updates(parameters, optimizer.torch_optimizer, range(2), KINDS[kind].rate)
    assert layout() == before
    assert tuple(optimizer.scalars()) == KINDS[kind].scalars


def test_state_of_another_adapter_is_refused() -> None:
    optimizer = one_group(named_parameters(3))
    saved = optimizer.tensors()
    del saved["step.a.lora_A.weight"]
    with pytest.raises(ValueError, match=r"step\.a\.lora_A\.weight"):
        optimizer.load(saved, {})
    with pytest.raises(ValueError, match="exp_avg"):
        optimizer.load({**optimizer.tensors(), "exp_avg.a.lora_A.weight": torch.zeros(8, 33)}, {})
    with pytest.raises(ValueError, match=r"numbers .* such as d\.unet"):
        optimizer.load(optimizer.tensors(), {"d.unet": 1e-6})


def test_half_precision_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        one_group({"a": torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))})


def test_a_name_in_two_groups_is_refused() -> None:
    parameters = {"a": torch.nn.Parameter(torch.zeros(2))}
    group = ParameterGroup(name="unet", parameters=parameters, schedule=constant(1.0), weight_decay=0.0)
    with pytest.raises(ValueError, match="more than one group"):
        Optimizer((group, group), OptimizationOptions())
