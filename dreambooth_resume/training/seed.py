"""The state of a run that Diffusers' own script began, as ours: LoRA and AdamW's moments, by name.

Nothing in its files is executed: safetensors, and `torch.load` with `weights_only`, which reads tensors and plain
values alone. The script numbers its parameters in the order in which the model's modules have them; so do we here.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dreambooth_resume.checkpoint.format import ExportWeights, SavedState
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.errors import BadInput, RefusedToGoOn
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.training.state import LORA_PREFIX, OPTIMIZER_PREFIX, TrainingState

_OPTIMIZER_NAME = "optimizer.bin"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
# peft's own names, which newer versions of Diffusers keep.
_RENAMED = ((".lora_A.weight", ".lora.down.weight"), (".lora_B.weight", ".lora.up.weight"))
_OTHER_LAYERS = ("lora_layers", "lora_unet_blocks", "use_blora", "conv_dim", "rank_pattern", "alpha_pattern")
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptState:
    """What the script's checkpoint of `step` holds. `moments` are in the order of its parameters."""

    folder: Path
    step: int
    weights: Mapping[str, torch.Tensor]
    moments: tuple[Mapping[str, torch.Tensor], ...]
    settings: Mapping[str, object]
    """Of the optimizer's first group: learning rate, betas and so on."""

    @property
    def rank(self) -> int:
        return next(tensor.shape[0] for name, tensor in self.weights.items() if name.endswith(".down.weight"))

    @property
    def elements(self) -> int:
        return sum(tensor.numel() for tensor in self.weights.values())


def read_script_state(folder: Path, step: int) -> ScriptState:
    """The checkpoint, in memory. Raises BadInput with the reason for anything that isn't one."""
    weights = {_plain(name): tensor for name, tensor in _read_weights(folder).items()}
    if not any(name.endswith(".down.weight") for name in weights):
        raise _unusable(folder / WEIGHTS_NAME, "holds no LoRA in the names of Diffusers' script")
    optimizer = _read_optimizer(folder / _OPTIMIZER_NAME)
    try:
        groups = cast("Sequence[Mapping[str, Any]]", optimizer["param_groups"])
        states = cast("Mapping[int, Mapping[str, torch.Tensor]]", optimizer["state"])
        moments = tuple({name: states[one][name] for name in _MOMENTS} for group in groups for one in group["params"])
        settings = {key: value for key, value in groups[0].items() if key != "params"}
    except (KeyError, TypeError, IndexError) as error:
        raise _unusable(
            folder / _OPTIMIZER_NAME, f"is not the state of AdamW ({error!r}): only AdamW's can be taken over"
        ) from None
    tensors = [*weights.values(), *(tensor for moment in moments for tensor in moment.values())]
    if not all(isinstance(tensor, torch.Tensor) and torch.isfinite(tensor).all() for tensor in tensors):
        raise _unusable(folder, "holds numbers that are NaN or infinite: take an earlier checkpoint")
    if len(moments) != len(weights):
        raise _unusable(
            folder, f"holds a LoRA of {len(weights)} matrices and moments of {len(moments)}: they don't belong together"
        )
    return ScriptState(folder=folder, step=step, weights=weights, moments=moments, settings=settings)


def refuse_misfit(script: ScriptState, options: TrainOptions, *, adapter_parameters: int) -> None:
    """Raises BadInput if these options make another adapter than the script's, before anything is loaded."""
    if options.optimization.optimizer_kind != "AdamW":
        raise BadInput(
            "only the state of AdamW can be taken over from Diffusers' script",
            where=f"--optimizer {options.optimization.optimizer}",
            fix="--optimizer AdamW",
        )
    for name, is_given in {
        "train_text_encoder": options.lora.train_text_encoder,
        "train_text_encoder_ti": options.tokens.train_text_encoder_ti,
        "use_dora": options.lora.use_dora,
    }.items():
        if is_given:
            raise BadInput(
                "only a plain LoRA on the UNet can be taken over from Diffusers' script",
                where=f"--{name}",
                fix="leave it out",
            )
    for name in _OTHER_LAYERS:
        if getattr(options.lora, name) not in (None, False):
            raise BadInput(
                "the script's LoRA has the usual layers, all of one rank", where=f"--{name}", fix="leave it out"
            )
    if script.rank != options.lora.rank:
        raise BadInput(
            f"the checkpoint has rank {script.rank}",
            where="--rank",
            fix=f"type --rank {script.rank}, as for the script",
        )
    if options.lora.alpha != script.rank:
        raise BadInput("the script's LoRA has alpha = rank", where="--lora_alpha", fix="leave --lora_alpha out")
    if script.elements != adapter_parameters:
        raise BadInput(
            f"has {script.elements:,} numbers, and these options make a LoRA of {adapter_parameters:,}",
            where=f"--resume_from_checkpoint {script.folder}",
            fix="give the base model that the script was given; what it trained beside the UNet can't be taken over",
        )


def saved_state(
    script: ScriptState, state: TrainingState, modules: Sequence[torch.nn.Module], export_weights: ExportWeights
) -> SavedState:
    """The script's state under our names, float32. Raises RefusedToGoOn if it is of another adapter."""
    own = {id(parameter): name for name, parameter in state.parameters.items()}
    order = [own[id(one)] for module in modules for one in module.parameters() if id(one) in own]
    tensors: dict[str, torch.Tensor] = {}
    try:
        for name, moment in zip(order, script.moments, strict=True):
            parameter = state.parameters[name].detach()
            (exported,) = export_weights({f"{LORA_PREFIX}{name}": parameter})[0]
            tensors[f"{LORA_PREFIX}{name}"] = _shaped(script.weights[exported], parameter)
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"{OPTIMIZER_PREFIX}{key}.{name}"] = _shaped(moment[key], parameter)
            tensors[f"{OPTIMIZER_PREFIX}step.{name}"] = moment["step"].to(torch.float32).reshape(())
    except (KeyError, ValueError) as error:
        raise RefusedToGoOn(f"{script.folder} is of another adapter than these options make: {error}") from error
    return SavedState(step=script.step, tensors=tensors, scalars={})


def what_was_taken(script: ScriptState, *, learning_rate: float) -> str:
    """For the user: what of the script's checkpoint goes on here, and what can't."""
    rate = script.settings.get("lr")
    other = (
        f" The script's learning rate was {rate:.4g}; it is {learning_rate:.4g} here."
        if isinstance(rate, float) and rate != learning_rate
        else ""
    )
    return (
        f"Taken from {script.folder}: {len(script.weights)} LoRA matrices and AdamW's moments, as float32, at step "
        f"{script.step}. Not taken: the script's random states and its place among the pictures, which can't be known "
        "exactly; from here on every draw is a function of the seed and the step, as always. The learning rate is that "
        f"of step {script.step} of this run's schedule, not what scheduler.bin says.{other}"
    )


def _read_weights(folder: Path) -> Mapping[str, torch.Tensor]:
    try:
        return load_file(folder / WEIGHTS_NAME)
    except (SafetensorError, OSError) as error:
        raise _unusable(folder / WEIGHTS_NAME, f"can't be read: {error}") from None


def _read_optimizer(path: Path) -> Mapping[str, object]:
    try:
        # Never anything but tensors and plain values: a pickle of anybody's could run code here.
        found = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0][:200]
        raise _unusable(path, f"is damaged, or holds more than tensors and numbers: {reason}") from None
    if not isinstance(found, dict):
        raise _unusable(path, "is not the state of an optimizer")
    return found


def _plain(name: str) -> str:
    for theirs, ours in _RENAMED:
        if name.endswith(theirs):
            return name.removesuffix(theirs) + ours
    return name


def _shaped(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if tensor.shape != like.shape:
        raise ValueError(f"a matrix is {tuple(tensor.shape)}, not {tuple(like.shape)}")
    return tensor.to(torch.float32).contiguous()


def _unusable(path: Path, what: str) -> BadInput:
    return BadInput(what, where=str(path), fix="name another checkpoint-… folder of Diffusers' script")
