"""The adapter: peft's layers on frozen modules, in float32, with start values that the caller draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray

from dreambooth_resume.models.base import Denoiser, TextEncoders
from dreambooth_resume.models.lora_layers import LayerSize, LoraSpec, alpha_pattern, rank_pattern
from dreambooth_resume.models.lycoris import peft_config, start_deviation
from dreambooth_resume.models.quiet import quiet_loading

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_NAME = "default"
TEXT_PARTS = ("text_encoder", "text_encoder_2")
"""First component of the names of parameters that are not the denoiser's; Diffusers calls the encoders so."""

_MAGNITUDE = ".lora_magnitude_vector"

NormalDraw = Callable[[int, tuple[int, ...]], NDArray[np.float32]]
"""(number of the matrix, shape) -> standard normal numbers, float32. Must depend on nothing else."""


def part_of(name: str) -> str | None:
    """The text encoder that the parameter of this name belongs to; None for the denoiser."""
    first = name.partition(".")[0]
    return first if first in TEXT_PARTS else None


def add_lora(
    denoiser: Denoiser, spec: LoraSpec, *, normal_draw: NormalDraw, text_encoders: TextEncoders | None = None
) -> dict[str, torch.nn.Parameter]:
    """Put an adapter on the target layers of all parts and return its parameters, by name, in the order of the names.

    Parameters are float32 in every precision and on their module's device; A starts normal with standard deviation
    1/rank of its layer (peft's "gaussian", as in Diffusers' script), B at zero, and DoRA's magnitudes at the lengths of
    the frozen weights' rows, so that a fresh adapter changes nothing. Names look like "….to_q.lora_A.weight", a text
    encoder's like "text_encoder.….q_proj.lora_A.weight". The matrices A are numbered in the order of their names, the
    denoiser's first: its start does not depend on what else is trained. LoHa and LoKr have other matrices, with start
    values of their own (`lycoris.start_deviation`), numbered alike.
    """
    parameters: dict[str, torch.nn.Parameter] = {}
    number = 0
    for prefix, module, targets in _parts(denoiser, text_encoders):
        sizes = spec.sizes.get(prefix.partition(".")[0] or denoiser.export_prefix, {})
        added = _inject(module, spec, tuple(sizes) or targets, sizes)
        if not added:
            raise ValueError(f"no layer of {prefix or 'the denoiser'} is named {' or '.join(targets)}")
        number = _start_values(added, first=number, normal_draw=normal_draw)
        if spec.dora:
            _start_magnitudes(module, added)
        parameters.update({f"{prefix}{name}": parameter for name, parameter in added.items()})
    return dict(sorted(parameters.items()))


def _parts(
    denoiser: Denoiser, text_encoders: TextEncoders | None
) -> list[tuple[str, torch.nn.Module, tuple[str, ...]]]:
    parts = [("", denoiser.module, denoiser.lora_target_modules)]
    if text_encoders is not None:
        for name, module in sorted(text_encoders.lora_parts.items()):
            assert part_of(name) is not None, name
            parts.append((f"{name}.", module, text_encoders.lora_target_modules))
    return parts


def _inject(
    module: torch.nn.Module, spec: LoraSpec, targets: tuple[str, ...], sizes: Mapping[str, LayerSize]
) -> dict[str, torch.nn.Parameter]:
    """peft's layers around the targets; their parameters, with random values, by name without the adapter's."""
    with quiet_loading():
        from peft import inject_adapter_in_model

    config = _lora_config(spec, targets, sizes) if spec.kind == "lora" else peft_config(spec, targets, sizes)
    module.requires_grad_(False)
    inject_adapter_in_model(config, module, adapter_name=ADAPTER_NAME)
    added = {}
    for name, parameter in sorted(module.named_parameters()):
        if parameter.requires_grad:
            # peft makes adapters in the dtype of the base layer; a bf16 adapter would lose every small update.
            parameter.data = parameter.data.to(torch.float32)
            added[_plain(name)] = parameter
    return added


def _lora_config(spec: LoraSpec, targets: tuple[str, ...], sizes: Mapping[str, LayerSize]) -> LoraConfig:
    with quiet_loading():
        from peft import LoraConfig

    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=list(targets),
        rank_pattern=rank_pattern(sizes, spec.rank),
        alpha_pattern=alpha_pattern(sizes, spec.alpha),
        init_lora_weights=False,
        use_dora=spec.dora,
    )


def _plain(name: str) -> str:
    # A magnitude is a parameter `weight` of a module of its own; peft saves it under the module's name.
    plain = name.replace(f".{ADAPTER_NAME}.", ".").removesuffix(f".{ADAPTER_NAME}")
    return plain.removesuffix(".weight") if plain.endswith(f"{_MAGNITUDE}.weight") else plain


def _start_values(parameters: Mapping[str, torch.nn.Parameter], *, first: int, normal_draw: NormalDraw) -> int:
    """Fill in all matrices; the number of the next one that is drawn."""
    number = first
    with torch.no_grad():
        for name, parameter in parameters.items():
            shape = tuple(parameter.shape)
            # A's values are divided by the rank, and not multiplied: the last bits of earlier runs' starts.
            deviation = start_deviation(name, shape)
            if ".lora_A." not in name and deviation is None:
                parameter.zero_()
                continue
            values = normal_draw(number, shape)
            if values.shape != shape or values.dtype != np.float32:
                raise ValueError(f"the draw for {name} is {values.dtype} {values.shape}, not float32 {shape}")
            scaled = values / np.float32(shape[0]) if deviation is None else values * np.float32(deviation)
            parameter.copy_(torch.from_numpy(scaled))
            number += 1
    return number


def _start_magnitudes(module: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Lengths of the rows of the frozen weights: peft has taken them with the random A and B that it begins with."""
    for name, parameter in parameters.items():
        if name.endswith(_MAGNITUDE):
            # No parameter where the layer is held in main memory.
            weight = cast(torch.Tensor, module.get_submodule(f"{name.removesuffix(_MAGNITUDE)}.base_layer").weight)
            with torch.no_grad():
                lengths = torch.linalg.vector_norm(weight.float(), dim=tuple(range(1, weight.ndim)))
                parameter.copy_(lengths.reshape(parameter.shape))


def begin_from(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    """Overwrite the start values of the parameters that `values` has; the others keep theirs.

    Raises ValueError for a name that the adapter lacks, and for another shape.
    """
    unknown = sorted(values.keys() - parameters.keys())
    if unknown:
        raise ValueError(f"the LoRA to begin from has {unknown[0]}, which this model has not")
    load_parameters({name: parameters[name] for name in values}, values)


def load_parameters(parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
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
