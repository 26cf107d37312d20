"""The adapter: peft's LoRA layers on a frozen denoiser, in float32, with start values that the caller draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dreambooth_resume.models.base import Denoiser
from dreambooth_resume.models.quiet import quiet_loading

ADAPTER_NAME = "default"

NormalDraw = Callable[[int, tuple[int, int]], NDArray[np.float32]]
"""(number of the matrix, shape) -> standard normal numbers, float32. Must depend on nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """Size and strength of an adapter: its output is (alpha / rank) * B(A(dropout(input)))."""

    rank: int
    alpha: float
    dropout: float = 0.0


def add_lora(denoiser: Denoiser, spec: LoraSpec, *, normal_draw: NormalDraw) -> dict[str, torch.nn.Parameter]:
    """Put an adapter on the denoiser's target layers and return its parameters, by name, in the order of the names.

    Parameters are float32 in every precision and on the denoiser's device; A starts normal with standard deviation
    1/rank (peft's "gaussian", as in Diffusers' script), B starts at zero. Names look like "….to_q.lora_A.weight". The
    matrices A are numbered in the order of their names.
    """
    with quiet_loading():
        from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=list(denoiser.lora_target_modules),
        init_lora_weights=False,
    )
    module = denoiser.module
    module.requires_grad_(False)
    inject_adapter_in_model(config, module, adapter_name=ADAPTER_NAME)
    parameters = {}
    for name, parameter in sorted(module.named_parameters()):
        if parameter.requires_grad:
            # peft makes adapters in the dtype of the base layer; a bf16 adapter would lose every small update.
            parameter.data = parameter.data.to(torch.float32)
            parameters[name.replace(f".{ADAPTER_NAME}.", ".")] = parameter
    if not parameters:
        raise ValueError(f"no layer of the denoiser is named {' or '.join(denoiser.lora_target_modules)}")
    _start_values(parameters, rank=spec.rank, normal_draw=normal_draw)
    return parameters


def _start_values(parameters: Mapping[str, torch.nn.Parameter], *, rank: int, normal_draw: NormalDraw) -> None:
    number = 0
    with torch.no_grad():
        for name, parameter in parameters.items():
            if ".lora_A." not in name:
                parameter.zero_()
                continue
            shape = (parameter.shape[0], parameter.shape[1])
            values = normal_draw(number, shape)
            if values.shape != shape or values.dtype != np.float32:
                raise ValueError(f"the draw for {name} is {values.dtype} {values.shape}, not float32 {shape}")
            parameter.copy_(torch.from_numpy(values / np.float32(rank)))
            number += 1


def load_parameters(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    """Overwrite the adapter's values in place. Raises ValueError unless names, shapes and dtypes are the same."""
    if parameters.keys() != values.keys():
        odd = sorted(parameters.keys() ^ values.keys())
        raise ValueError(f"{len(odd)} parameters are in the adapter or in the values but not in both, such as {odd[0]}")
    for name, parameter in parameters.items():
        value = values[name]
        if value.shape != parameter.shape or value.dtype != parameter.dtype:
            raise ValueError(
                f"{name} is {parameter.dtype} {tuple(parameter.shape)}, its value {value.dtype} {tuple(value.shape)}"
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
