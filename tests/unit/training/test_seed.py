"""A checkpoint of Diffusers' own script, read and taken over: checked against a step that the script's parts make."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.training.build import build_parts, make_accelerator
from dreambooth_resume.training.seed import ScriptState, read_script_state, refuse_misfit, saved_state, what_was_taken
from tests.fakes.diffusers_script import train_like_the_script
from tests.fakes.memory_storage import MemoryStorage
from tests.unit.training.test_build import Quiet, assignment


@pytest.fixture(scope="module")
def trained(tiny_source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UNet2DConditionModel]:
    output = tmp_path_factory.mktemp("script")
    unet = train_like_the_script(Path(str(tiny_source.folder)), output)
    return output / "checkpoint-3", unet


@pytest.fixture
def damaged(trained: tuple[Path, UNet2DConditionModel], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained[0], tmp_path / "checkpoint-3"))


def test_the_next_step_from_it_is_the_scripts_next_step(
    trained: tuple[Path, UNet2DConditionModel], tiny_source: ModelSource, tmp_path: Path
) -> None:
    """Weights, both moments and AdamW's count, each with its own parameter: else the update would be another one."""
    folder, unet = trained
    for extra in draw_pictures(tmp_path)[2:]:
        extra.unlink()
    chosen, _ = assignment(tiny_source, tmp_path, "--learning_rate", "1e-3")
    accelerator = make_accelerator(chosen.options)
    parts = build_parts(chosen, MemoryStorage(), accelerator=accelerator, reporter=Quiet(), watcher=Watcher([]))
    script = read_script_state(folder, 3)
    parts.state.load(saved_state(script, parts.state, parts.modules, parts.export_weights))
    assert parts.state.global_step == 3
    theirs = {
        name.replace(".default.", "."): parameter
        for name, parameter in unet.named_parameters()
        if parameter.requires_grad
    }
    assert theirs.keys() == parts.state.parameters.keys()
    before = {name: parameter.detach().clone() for name, parameter in parts.state.parameters.items()}
    for name, parameter in parts.state.parameters.items():
        parameter.grad = theirs[name].grad
    parts.state.optimizer.set_rates(3)
    parts.state.optimizer.torch_optimizer.step()
    for name, parameter in parts.state.parameters.items():
        torch.testing.assert_close(parameter.detach(), theirs[name].detach(), rtol=1e-5, atol=1e-7)
        assert not torch.equal(parameter.detach(), before[name])


def test_what_was_taken_and_what_cannot_be_is_said(trained: tuple[Path, UNet2DConditionModel]) -> None:
    script = read_script_state(trained[0], 3)
    told = what_was_taken(script, learning_rate=5e-4)
    assert "160 LoRA matrices and AdamW's moments, as float32, at step 3" in told
    assert "Not taken: the script's random states and its place among the pictures" in told
    assert "The script's learning rate was 0.001; it is 0.0005 here." in told
    assert "is 0.001 here" not in what_was_taken(script, learning_rate=1e-3)


class Opens:
    """A pickle that would run a program."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, ("touch /tmp/dbr-was-here",)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(os, "system", ran.append)
    torch.save({"state": {}, "param_groups": [Opens()]}, damaged / "optimizer.bin")
    with pytest.raises(BadInput, match="is damaged, or holds more than tensors and numbers"):
        read_script_state(damaged, 3)
    (damaged / "optimizer.bin").write_bytes(pickle.dumps(Opens()))
    with pytest.raises(BadInput, match="is damaged, or holds more than tensors and numbers"):
        read_script_state(damaged, 3)
    assert not ran


@pytest.mark.parametrize("name", ["optimizer.bin", "pytorch_lora_weights.safetensors"])
def test_a_torn_file_is_refused_with_its_name(damaged: Path, name: str) -> None:
    body = (damaged / name).read_bytes()
    (damaged / name).write_bytes(body[: len(body) // 2])
    with pytest.raises(BadInput) as refusal:
        read_script_state(damaged, 3)
    assert refusal.value.where == str(damaged / name)


def test_another_optimizers_state_is_refused(damaged: Path) -> None:
    state = torch.load(damaged / "optimizer.bin", weights_only=True)
    for one in state["state"].values():
        one["s"] = one.pop("exp_avg_sq")
    torch.save(state, damaged / "optimizer.bin")
    with pytest.raises(BadInput, match="only AdamW's can be taken over"):
        read_script_state(damaged, 3)


def test_numbers_that_are_not_finite_are_refused(damaged: Path) -> None:
    state = torch.load(damaged / "optimizer.bin", weights_only=True)
    state["state"][7]["exp_avg"][0, 0] = float("nan")
    torch.save(state, damaged / "optimizer.bin")
    with pytest.raises(BadInput, match="NaN or infinite"):
        read_script_state(damaged, 3)


def _misfit(script: ScriptState, *words: str, parameters: int | None = None) -> str:
    required = "--pretrained_model_name_or_path m --instance_data_dir p --instance_prompt d".split()
    options = resolve(parse_train([*required, *words]), recorded=None)
    with pytest.raises(BadInput) as refusal:
        refuse_misfit(script, options, adapter_parameters=script.elements if parameters is None else parameters)
    return str(refusal.value)


def test_options_that_make_another_adapter_are_refused(trained: tuple[Path, UNet2DConditionModel]) -> None:
    script = read_script_state(trained[0], 3)
    assert "the checkpoint has rank 4" in _misfit(script, "--rank", "8")
    assert "alpha = rank" in _misfit(script, "--lora_alpha", "8")
    assert "only the state of AdamW" in _misfit(script, "--optimizer", "prodigy")
    assert "these options make a LoRA of 5" in _misfit(script, parameters=5)
