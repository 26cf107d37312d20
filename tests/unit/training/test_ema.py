"""The average of the weights is Diffusers', a function of the steps, and the result; the weights stay what they are."""

from __future__ import annotations

import pytest
import torch
from diffusers.training_utils import EMAModel

from dreambooth_resume.checkpoint.format import SavedState
from dreambooth_resume.checkpoint.snapshot import Snapshotter
from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.training.ema import Ema, decay_at
from dreambooth_resume.training.state import TrainingState
from tests.fakes.optimizers import one_group

Parameters = dict[str, torch.nn.Parameter]


def named_parameters(seed: int = 0) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.lora_A.weight": (4, 33), "a.lora_B.weight": (17, 4)}
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def move(parameters: Parameters, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def state_of(parameters: Parameters, *, decay: float | None = 0.9, optimizer: str = "AdamW") -> TrainingState:
    options = OptimizationOptions(optimizer=optimizer)  # type: ignore[arg-type]
    ema = None if decay is None else Ema(parameters, decay=decay)
    return TrainingState(one_group(parameters, options), lr_scheduler="constant", ema=ema)


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_averages_are_those_of_diffusers(decay: float) -> None:
    parameters = named_parameters()
    ours, theirs = Ema(parameters, decay=decay), EMAModel(list(parameters.values()), decay=decay, foreach=False)
    for step in range(40):
        move(parameters, step)
        ours.update(step)
        theirs.step(list(parameters.values()))
        assert theirs.cur_decay_value == decay_at(step, decay=decay)
    for mine, other in zip(ours.averages.values(), theirs.shadow_params, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_the_first_update_is_taken_over_whole_and_the_decay_rises_to_its_value() -> None:
    parameters = named_parameters()
    ema = Ema(parameters, decay=0.99)
    move(parameters, 0)
    ema.update(0)
    assert all(torch.equal(ema.averages[name], parameter) for name, parameter in parameters.items())
    assert [round(decay_at(step, decay=0.99), 3) for step in (0, 1, 9, 10**6)] == [0.0, 0.182, 0.526, 0.99]


def test_a_state_has_the_averages_beside_the_weights_and_its_result_is_the_averages() -> None:
    parameters = named_parameters()
    state = state_of(parameters)
    tensors = state.tensors()
    assert {name for name in tensors if name.startswith("ema.")} == {f"ema.{name}" for name in parameters}
    assert state.result(tensors)["a.lora_A.weight"] is tensors["ema.a.lora_A.weight"]
    assert torch.equal(state.result({"lora.x": tensors["lora.a.lora_A.weight"]})["x"], parameters["a.lora_A.weight"])
    plain = state_of(parameters, decay=None)
    assert not any(name.startswith("ema.") for name in plain.tensors())
    assert plain.result(plain.tensors()).keys() == parameters.keys()


def test_loaded_averages_are_the_saved_ones_and_without_any_they_begin_at_the_weights() -> None:
    first = named_parameters(1)
    state = state_of(first)
    move(first, 3)
    saved = {name: tensor.clone() for name, tensor in state.tensors().items()}
    second = named_parameters(2)
    resumed = state_of(second)
    resumed.load(SavedState(step=4, tensors=saved, scalars={}))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in resumed.tensors().items())
    without = {name: tensor for name, tensor in saved.items() if not name.startswith("ema.")}
    resumed.load(SavedState(step=4, tensors=without, scalars={}))
    assert torch.equal(resumed.tensors()["ema.a.lora_B.weight"], saved["lora.a.lora_B.weight"])
    # A run that keeps no average goes on from a state that has one.
    state_of(named_parameters(2), decay=None).load(SavedState(step=4, tensors=saved, scalars={}))


@pytest.mark.parametrize("optimizer", ["AdamW", "AdamWScheduleFree"])
def test_pictures_are_made_with_the_result_and_leave_every_bit_and_a_running_save_alone(optimizer: str) -> None:
    parameters = named_parameters()
    state = state_of(parameters, decay=0.9 if optimizer == "AdamW" else None, optimizer=optimizer)
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    for step in range(3):
        state.optimizer.set_rates(step)
        state.optimizer.torch_optimizer.step()
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    places = {name: parameter.data_ptr() for name, parameter in parameters.items()}
    expected = state.result(before)
    snapshots = Snapshotter(state)
    snapshot = snapshots.take()
    with state.result_in_place():
        for name, parameter in parameters.items():
            assert torch.equal(parameter, expected[name])
            assert not torch.equal(parameter, before[f"lora.{name}"])
    snapshots.wait_until_copied()
    assert {name: parameter.data_ptr() for name, parameter in parameters.items()} == places
    for tensors in (state.tensors(), snapshot.to_saved_state().tensors):
        assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())
