"""An SDXL LoRA file of Diffusers, kohya's scripts, or another program that writes as they do, to begin a run from."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.base import ExistingLora
from dreambooth_resume.models.lora_layers import LayerSize
from dreambooth_resume.models.quiet import quiet_loading

_PARTS = ("unet", "text_encoder", "text_encoder_2")
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_FIX = "give a LoRA for SDXL: a .safetensors of dbr, Diffusers or kohya's scripts"


def read_existing(
    body: bytes, *, where: str, unet_config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> ExistingLora:
    """The file's matrices as a run's parameters, float32, with each layer's rank and alpha.

    `shapes` are those of the UNet's weights. Raises BadInput for what is no LoRA, or one of another model.
    """
    try:
        tensors = load(body)
    except SafetensorError as error:
        raise BadInput(f"is not a safetensors file: {error}", where=where, fix=_FIX) from error
    if any("dora_scale" in name or "magnitude" in name for name in tensors):
        raise BadInput("is a DoRA, and only a LoRA can be begun from", where=where, fix="give another file")
    try:
        values, alphas = _in_our_names(tensors, unet_config)
    except (ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BadInput(f"is not a LoRA that can be read: {reason}", where=where, fix=_FIX) from error
    downs = sorted(name.removesuffix(_DOWN) for name in values if name.endswith(_DOWN))
    if not downs or values.keys() != {f"{name}{end}" for name in downs for end in (_DOWN, _UP)}:
        odd = next((name for name in sorted(values) if not name.endswith((_DOWN, _UP))), next(iter(tensors), "nothing"))
        raise BadInput(f"holds {odd}, which is not a LoRA's", where=where, fix=_FIX)
    header = _header_alphas(body)
    sizes: dict[str, dict[str, LayerSize]] = {}
    for name in downs:
        part, layer = _taken_apart(name)
        if part == "unet":
            _check_layer(layer, values[f"{name}{_DOWN}"], values[f"{name}{_UP}"], shapes, where)
        rank = len(values[f"{name}{_DOWN}"])
        alpha = alphas.get(name, _from_header(header, part, layer, rank))
        sizes.setdefault(part, {})[layer] = LayerSize(rank=rank, alpha=alpha)
    own = {name.removeprefix("unet."): tensor.to(torch.float32).contiguous() for name, tensor in values.items()}
    return ExistingLora(values=dict(sorted(own.items())), sizes=sizes)


def _in_our_names(
    tensors: Mapping[str, torch.Tensor], unet_config: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """With Diffusers' own converters: "unet.….to_q.lora_A.weight" to the tensor, and "unet.….to_q" to its alpha.

    Raises ValueError or KeyError for names that none of them knows.
    """
    with quiet_loading():
        from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin

        config = SimpleNamespace(layers_per_block=unet_config.get("layers_per_block", 2))
        found, network_alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(dict(tensors), unet_config=config)
    # An alpha goes by its layer's name, or by that of its lower matrix.
    named = {_lower(name.removesuffix(".alpha")): torch.tensor(alpha) for name, alpha in (network_alphas or {}).items()}
    alphas = {name.removesuffix(_DOWN): float(alpha) for name, alpha in _renamed(named).items()}
    return _renamed(found), alphas


def _lower(name: str) -> str:
    return name if name.endswith(".down.weight") else f"{name}.lora.down.weight"


def _renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """peft's names for all of Diffusers' older and newer ones; what belongs to no part stays as it is."""
    with quiet_loading():
        from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
        from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

        renamed: dict[str, torch.Tensor] = {}
        for part in (*_PARTS, None):
            own = {name: tensor for name, tensor in tensors.items() if _part(name) == part}
            if own and part is not None and not any(".lora_A." in name for name in own):
                is_text = part != "unet"
                own = convert_state_dict_to_diffusers(own) if is_text else convert_unet_state_dict_to_peft(own)
                own = convert_state_dict_to_peft(own) if is_text else own
            renamed |= {_with_text_model(name): tensor for name, tensor in own.items()}
    return renamed


def _part(name: str) -> str | None:
    first = name.partition(".")[0]
    return first if first in _PARTS else None


def _with_text_model(name: str) -> str:
    """transformers 5 took the word out of the first encoder's names; a run's parameters have it always."""
    part, _, rest = name.partition(".")
    if part in ("text_encoder", "text_encoder_2") and not rest.startswith("text_model."):
        return f"{part}.text_model.{rest}"
    return name


def _taken_apart(name: str) -> tuple[str, str]:
    part, _, layer = name.partition(".")
    return part, layer.removeprefix("text_model.")


def _check_layer(
    layer: str, down: torch.Tensor, up: torch.Tensor, shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    shape = shapes.get(layer)
    if shape is None:
        raise BadInput(f"has a layer {layer}, which this base model has not", where=where, fix=_FIX)
    if (len(up), down.shape[1], *down.shape[2:]) != shape:
        raise BadInput(
            f"is of another base model: {layer} is {len(up)} x {down.shape[1]} there, and {shape[0]} x {shape[1]} here",
            where=where,
            fix="give a LoRA for this base model, or the base model of the LoRA",
        )


def _header_alphas(body: bytes) -> dict[str, Any]:
    """What peft's metadata in the header say, if there are any."""
    (length,) = struct.unpack("<Q", body[:8])
    metadata = json.loads(body[8 : 8 + length]).get("__metadata__", {})
    try:
        config = json.loads(metadata["lora_adapter_metadata"])
    except (KeyError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _from_header(config: Mapping[str, Any], part: str, layer: str, rank: int) -> float:
    """As peft reads it; without a word of it alpha is the rank, as every program takes it."""
    for names, alpha in (config.get(f"{part}.alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({names})", layer):
            return float(alpha)
    return float(config.get(f"{part}.lora_alpha", rank))
