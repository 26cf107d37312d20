"""An adapter under the names that other programs read.

`pytorch_lora_weights.safetensors` as Diffusers' script writes it ("unet.….to_q.lora.down.weight"), with alpha in the
header, which that script leaves out (readers then take alpha for the rank). Everything is sorted: the same adapter
gives the same bytes in every process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from dreambooth_resume.models.lora import LoraSpec

_EXPORT_NAMES = ((".lora_A.weight", ".lora.down.weight"), (".lora_B.weight", ".lora.up.weight"))


def diffusers_tensors(parameters: Mapping[str, torch.Tensor], *, prefix: str) -> dict[str, torch.Tensor]:
    """Adapter parameters under Diffusers' names, sorted. The tensors are the same objects, detached, not copies."""
    renamed = {f"{prefix}.{_exported(name)}": tensor.detach() for name, tensor in parameters.items()}
    return dict(sorted(renamed.items()))


def parameter_values(tensors: Mapping[str, torch.Tensor], *, prefix: str) -> dict[str, torch.Tensor]:
    """The inverse of `diffusers_tensors`, sorted. Raises ValueError for a name that it never gives."""
    return dict(sorted((_imported(name, prefix=prefix), tensor) for name, tensor in tensors.items()))


def diffusers_metadata(spec: LoraSpec, *, prefix: str, target_modules: tuple[str, ...]) -> dict[str, str]:
    """The file's header: what `load_lora_weights` of Diffusers >= 0.34 builds its adapter from.

    Only what a reader needs: it passes every key to peft's LoraConfig, and a key that its peft doesn't know is an
    error. Not the dropout: Diffusers would build it in and leave it switched on, so that pictures came out different
    every time.
    """
    config = {
        f"{prefix}.r": spec.rank,
        f"{prefix}.lora_alpha": int(spec.alpha) if float(spec.alpha).is_integer() else spec.alpha,
        f"{prefix}.target_modules": sorted(target_modules),
    }
    return {"format": "pt", "lora_adapter_metadata": json.dumps(config, sort_keys=True)}


def _exported(name: str) -> str:
    for ours, theirs in _EXPORT_NAMES:
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs
    raise ValueError(f"{name} is not a parameter of an adapter")


def _imported(name: str, *, prefix: str) -> str:
    for ours, theirs in _EXPORT_NAMES:
        if name.startswith(f"{prefix}.") and name.endswith(theirs):
            return name.removeprefix(f"{prefix}.").removesuffix(theirs) + ours
    raise ValueError(f"{name} is not a tensor of an exported {prefix} adapter")
