"""Every optimizer against its library's own, and its state: whole from the start, restored to the last bit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import bitsandbytes
import pytest
import torch
from lion_pytorch import Lion
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree
from transformers.optimization import Adafactor

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


_PRODIGY = ("exp_avg", "exp_avg_sq", "p0", "s")
_ESTIMATE = ("d.unet", "d0.unet", "d_denom.unet", "d_hat.unet", "d_max.unet", "d_numerator.unet", "k.unet", "step")
KINDS = {
    "AdamW": Kind(OptimizationOptions(), 1e-2, ("exp_avg", "exp_avg_sq", "step")),
    "prodigy": Kind(OptimizationOptions(optimizer="prodigy"), 1.0, _PRODIGY, _ESTIMATE),
    "prodigy_otherwise": Kind(
        OptimizationOptions(
            optimizer="prodigy",
            adam_beta1=0.0,
            prodigy_beta3=0.9,
            prodigy_decouple=False,
            prodigy_use_bias_correction=False,
            prodigy_safeguard_warmup=False,
        ),
        0.5,
        _PRODIGY[1:],
        _ESTIMATE,
    ),
    "AdamW8bit": Kind(
        OptimizationOptions(use_8bit_adam=True), 1e-2, ("absmax1", "absmax2", "state1", "state2"), ("step",)
    ),
    "Lion": Kind(OptimizationOptions(optimizer="Lion"), 1e-2, ("exp_avg",)),
    "Adafactor": Kind(
        OptimizationOptions(optimizer="Adafactor"), 1e-2, ("exp_avg_sq", "exp_avg_sq_col", "exp_avg_sq_row"), ("step",)
    ),
    "AdamWScheduleFree": Kind(
        OptimizationOptions(optimizer="AdamWScheduleFree"),
        1e-2,
        ("exp_avg_sq", "z"),
        ("k.unet", "lr_max.unet", "weight_sum.unet"),
    ),
}


def named_parameters(seed: int) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    # The first two are large enough for 8 bits; their number is no multiple of a block.
    shapes = {"a.lora_A.weight": (4, 1033), "a.lora_B.weight": (1100, 4), "b.lora_A.weight": (4, 8)}
    parameters = {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}
    parameters["a.lora_B.weight"].data.zero_()  # as a fresh adapter has it
    return parameters


def run_updates(parameters: Parameters, optimizer: torch.optim.Optimizer, steps: range, rate: float = 1e-2) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters.values():
            # On the whole downhill in one direction: prodigy's step size then grows.
            parameter.grad = 1.0 + torch.randn(parameter.shape, generator=generator)
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


@pytest.mark.parametrize("kind", ["prodigy", "prodigy_otherwise"])
def test_updates_are_those_of_prodigyopt(kind: str) -> None:
    chosen = KINDS[kind].options
    ours, theirs = named_parameters(0), named_parameters(0)
    optimizer = two_groups(ours, chosen, decays=(0.01, 0.001))
    library = Prodigy(
        [
            {"params": [theirs["a.lora_A.weight"], theirs["a.lora_B.weight"]], "weight_decay": 0.01},
            {"params": [theirs["b.lora_A.weight"]], "weight_decay": 0.001},
        ],
        betas=(chosen.adam_beta1, chosen.adam_beta2),
        beta3=chosen.prodigy_beta3,
        eps=chosen.adam_epsilon,
        decouple=chosen.prodigy_decouple,
        use_bias_correction=chosen.prodigy_use_bias_correction,
        safeguard_warmup=chosen.prodigy_safeguard_warmup,
    )
    for steps, rate in ((range(1), 0.0), (range(1, 60), KINDS[kind].rate)):  # a warm-up begins at 0
        run_updates(ours, optimizer.torch_optimizer, steps, rate)
        run_updates(theirs, library, steps, rate)
    assert library.param_groups[0]["d"] > library.param_groups[0]["d0"]
    assert optimizer.measured(9) == {"lr_text_encoder": 1e-3, "prodigy_d": library.param_groups[0]["d"]}
    for name in ours:
        assert torch.equal(ours[name], theirs[name])


def test_prodigy_starts_from_the_values_that_the_adapter_had_at_the_first_update() -> None:
    """Weights of another program's checkpoint are loaded after the optimizer was built."""
    options = KINDS["prodigy"].options
    early, late = named_parameters(0), named_parameters(0)
    for parameters in (early, late):
        built = one_group(parameters, options) if parameters is early else None
        for parameter in parameters.values():
            parameter.data.add_(0.5)
        run_updates(parameters, (built or one_group(parameters, options)).torch_optimizer, range(5), 1.0)
    assert all(torch.equal(early[name], late[name]) for name in early)


def test_prodigy_has_one_rate_for_all_groups() -> None:
    parameters = named_parameters(0)
    groups = [
        ParameterGroup(name=name, parameters={name: parameters[name]}, schedule=constant(rate), weight_decay=0.0)
        for name, rate in (("a.lora_A.weight", 1.0), ("b.lora_A.weight", 0.5))
    ]
    with pytest.raises(ValueError, match="one learning rate"):
        Optimizer(groups, KINDS["prodigy"].options)


def test_updates_are_those_of_bitsandbytes() -> None:
    ours, theirs = named_parameters(0), named_parameters(0)
    library = bitsandbytes.optim.AdamW8bit(theirs.values(), betas=(0.9, 0.999), weight_decay=1e-4, eps=1e-8)
    run_updates(ours, one_group(ours, KINDS["AdamW8bit"].options).torch_optimizer, range(10))
    run_updates(theirs, library, range(10))
    for name in ours:
        assert torch.equal(ours[name], theirs[name])


def library_of(kind: str, parameters: Parameters) -> torch.optim.Optimizer:
    """The package's own optimizer with the values that our options stand for, and groups of two decays."""
    groups = [
        {"params": [parameters["a.lora_A.weight"], parameters["a.lora_B.weight"]], "weight_decay": 0.01},
        {"params": [parameters["b.lora_A.weight"]], "weight_decay": 0.001},
    ]
    if kind == "Lion":
        return Lion(groups, betas=(0.9, 0.99))
    if kind == "Adafactor":
        return Adafactor(groups, lr=1e-2, scale_parameter=False, relative_step=False, warmup_init=False)
    library = AdamWScheduleFree(groups, betas=(0.9, 0.999), eps=1e-8)
    library.train()
    return library


@pytest.mark.parametrize("kind", ["Lion", "Adafactor", "AdamWScheduleFree"])
def test_updates_are_those_of_the_package(kind: str) -> None:
    ours, theirs = named_parameters(0), named_parameters(0)
    optimizer = two_groups(ours, KINDS[kind].options, decays=(0.01, 0.001))
    library = library_of(kind, theirs)
    for steps, rate in ((range(1), 0.0), (range(1, 20), 1e-2)):  # a warm-up begins at 0
        run_updates(ours, optimizer.torch_optimizer, steps, rate)
        run_updates(theirs, library, steps, rate)
    for name in ours:
        assert torch.equal(ours[name], theirs[name])


def test_adafactor_of_convolutions_and_magnitudes_is_the_packages_and_goes_on_bit_for_bit() -> None:
    def made(seed: int) -> Parameters:
        generator = torch.Generator().manual_seed(seed)
        shapes = {"conv.lora_A.weight": (4, 8, 3, 3), "q.lora_magnitude_vector": (17,)}
        return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}

    ours, theirs = made(1), made(1)
    optimizer = one_group(ours, KINDS["Adafactor"].options)
    library = Adafactor(
        theirs.values(), lr=1e-2, weight_decay=1e-4, scale_parameter=False, relative_step=False, warmup_init=False
    )
    assert list(optimizer.tensors()) == [
        "exp_avg_sq.q.lora_magnitude_vector",
        "exp_avg_sq_col.conv.lora_A.weight",
        "exp_avg_sq_row.conv.lora_A.weight",
    ]
    run_updates(ours, optimizer.torch_optimizer, range(5))
    saved = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    resumed = {name: torch.nn.Parameter(parameter.detach().clone()) for name, parameter in ours.items()}
    second = one_group(resumed, KINDS["Adafactor"].options)
    second.load(saved, optimizer.scalars())
    run_updates(ours, optimizer.torch_optimizer, range(5, 9))
    run_updates(resumed, second.torch_optimizer, range(5, 9))
    run_updates(theirs, library, range(9))
    assert all(torch.equal(ours[name], theirs[name]) and torch.equal(ours[name], resumed[name]) for name in ours)


def test_the_schedule_free_average_is_the_packages_and_is_computed_aside() -> None:
    ours, theirs = named_parameters(0), named_parameters(0)
    optimizer, library = one_group(ours, KINDS["AdamWScheduleFree"].options), library_of("AdamWScheduleFree", theirs)
    library.param_groups[0]["weight_decay"] = library.param_groups[1]["weight_decay"] = 1e-4
    assert all(torch.equal(value, ours[name]) for name, value in optimizer.averages(ours, optimizer.tensors()).items())
    run_updates(ours, optimizer.torch_optimizer, range(9))
    run_updates(theirs, library, range(9))
    before = {name: parameter.detach().clone() for name, parameter in ours.items()}
    averages = optimizer.averages(before, {name: tensor.clone() for name, tensor in optimizer.tensors().items()})
    library.eval()  # type: ignore[attr-defined]
    for name in ours:
        assert torch.equal(averages[name], theirs[name])
        assert torch.equal(ours[name], before[name])
        assert not torch.equal(averages[name], before[name])
    assert optimizer.has_averages
    assert not one_group(named_parameters(0)).has_averages


def test_schedule_free_begins_where_the_adapter_was_at_the_first_update() -> None:
    options = KINDS["AdamWScheduleFree"].options
    early, late = named_parameters(0), named_parameters(0)
    built = one_group(early, options)
    for parameter in (*early.values(), *late.values()):
        parameter.data.add_(0.5)
    run_updates(early, built.torch_optimizer, range(5))
    run_updates(late, one_group(late, options).torch_optimizer, range(5))
    assert all(torch.equal(early[name], late[name]) for name in early)


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
def test_a_parameter_that_gets_no_gradient_keeps_a_state_of_its_own(kind: str) -> None:
    """As in the last layer of SDXL's first text encoder, behind the hidden state that is used."""
    options, rate = KINDS[kind].options, KINDS[kind].rate
    whole = named_parameters(1)
    never_stopped = one_group(whole, options)
    used = {name: parameter for name, parameter in whole.items() if name != "a.lora_A.weight"}
    run_updates(used, never_stopped.torch_optimizer, range(5), rate)
    saved = {name: tensor.clone() for name, tensor in never_stopped.tensors().items()}
    numbers = json.loads(json.dumps(never_stopped.scalars()))
    second = {name: torch.nn.Parameter(parameter.detach().clone()) for name, parameter in whole.items()}
    resumed = one_group(second, options)
    resumed.load(saved, numbers)
    assert resumed.scalars() == numbers
    if "step" in numbers:
        assert (numbers["step"], numbers["step.a.lora_A.weight"]) == (5, 0)
    # From here on all of them have one: what was counted for each is what the next updates depend on.
    run_updates(whole, never_stopped.torch_optimizer, range(5, 8), rate)
    run_updates(second, resumed.torch_optimizer, range(5, 8), rate)
    assert all(torch.equal(whole[name], second[name]) for name in whole)
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
    expected = {f"{key}.{name}" for key in KINDS[kind].tensors for name in parameters}
    if kind == "Adafactor":  # matrices alone have rows and columns
        expected = {name for name in expected if ("exp_avg_sq." in name) == name.endswith("magnitude_vector")}
    if kind == "AdamW8bit":  # the maps are shared, and the small matrix has no blocks
        expected = (expected | {"qmap1", "qmap2"}) - {"absmax1.b.lora_A.weight", "absmax2.b.lora_A.weight"}
    assert set(before) == expected
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
