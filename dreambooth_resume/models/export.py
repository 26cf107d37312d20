"""An adapter under the names that other programs read.

`pytorch_lora_weights.safetensors` as Diffusers' script writes it ("unet.….to_q.lora.down.weight",
"text_encoder.….q_proj.lora_linear_layer.down.weight"), with alpha in the header, which that script leaves out (readers
then take alpha for the rank). LoHa and LoKr, for which Diffusers has no names, keep peft's ("unet.….to_q.hada_w1_a"),
and the header is peft's configuration: `load_lora_weights` refuses them, peft loads them. Everything is sorted: the
same adapter gives the same bytes in every process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dreambooth_resume.models.lora import part_of
from dreambooth_resume.models.lora_layers import (
    AdapterKind,
    LayerSize,
    LoraSpec,
    alpha_pattern,
    by_layer,
    rank_pattern,
)
from dreambooth_resume.models.lycoris import HADA_ENDS, LOKR_ENDS

_DENOISER_NAMES = (
    (".lora_A.weight", ".lora.down.weight"),
    (".lora_B.weight", ".lora.up.weight"),
    (".lora_magnitude_vector", ".lora_magnitude_vector"),
    *((end, end) for end in (*HADA_ENDS, *LOKR_ENDS)),
)
_TEXT_NAMES = (
    (".lora_A.weight", ".lora_linear_layer.down.weight"),
    (".lora_B.weight", ".lora_linear_layer.up.weight"),
    # Diffusers' script leaves `.weight` out, and transformers 5 then loads the DoRA without its magnitudes.
    (".lora_magnitude_vector", ".lora_magnitude_vector.weight"),
)
_EMBEDDING_NAMES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
_KINDS: dict[str, AdapterKind] = {"LOHA": "loha", "LOKR": "lokr"}
_HEADER_KEY = "lora_adapter_metadata"


def diffusers_tensors(parameters: Mapping[str, torch.Tensor], *, prefix: str) -> dict[str, torch.Tensor]:
    """Adapter parameters under Diffusers' names, sorted. The tensors are the same objects, detached, not copies.

    `prefix` is what Diffusers calls the denoiser ("unet"); a text encoder's parameters bring theirs in their names.
    """
    renamed = {_exported(name, prefix=prefix): tensor.detach() for name, tensor in parameters.items()}
    return dict(sorted(renamed.items()))


def parameter_values(tensors: Mapping[str, torch.Tensor], *, prefix: str) -> dict[str, torch.Tensor]:
    """The inverse of `diffusers_tensors`, sorted. Raises ValueError for a name that it never gives."""
    return dict(sorted((_imported(name, prefix=prefix), tensor) for name, tensor in tensors.items()))


def embedding_tensors(rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """New tokens' embeddings [new tokens, width] of each text encoder, as clip_l and clip_g, which everybody reads.

    `rows` are by what Diffusers calls the encoder. Raises ValueError for others, and for none.
    """
    if rows.keys() != _EMBEDDING_NAMES.keys():
        raise ValueError(f"embeddings of {', '.join(_EMBEDDING_NAMES)} are wanted, not of {sorted(rows)}")
    return {_EMBEDDING_NAMES[encoder]: one.detach() for encoder, one in sorted(rows.items())}


def diffusers_metadata(spec: LoraSpec, *, target_modules: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The file's header: what `load_lora_weights` of Diffusers >= 0.34 builds its adapter from.

    `target_modules` are those of each part, by what Diffusers calls it ("unet", "text_encoder", …). Only what a reader
    needs: it passes every key to peft's LoraConfig, and a key that its peft doesn't know is an error. Not the dropout:
    Diffusers would build it in and leave it switched on, so that pictures came out different every time.
    """
    config: dict[str, object] = {}
    for part, layers in target_modules.items():
        sizes = spec.sizes.get(part, {})
        config[f"{part}.r"] = spec.rank
        config[f"{part}.{'lora_alpha' if spec.kind == 'lora' else 'alpha'}"] = _number(spec.alpha)
        config[f"{part}.target_modules"] = sorted(sizes or layers)
        if ranks := rank_pattern(sizes, spec.rank):
            config[f"{part}.rank_pattern"] = ranks
        if alphas := alpha_pattern(sizes, spec.alpha):
            config[f"{part}.alpha_pattern"] = {layers: _number(alpha) for layers, alpha in alphas.items()}
        if spec.dora:
            config[f"{part}.use_dora"] = True
        if spec.kind != "lora":
            config[f"{part}.peft_type"] = spec.kind.upper()
        if spec.kind == "lokr":
            config[f"{part}.decompose_factor"] = spec.factor
    return {"format": "pt", _HEADER_KEY: json.dumps(config, sort_keys=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a header of `diffusers_metadata` says of each part: rank and alpha, and where layers have others."""

    base: Mapping[str, LayerSize]
    ranks: Mapping[str, Mapping[str, int]]
    alphas: Mapping[str, Mapping[str, float]]
    kind: AdapterKind
    factor: int

    def rank(self, part: str, layer: str) -> int:
        return int(self.ranks[part].get(layer.removeprefix("text_model."), self.base[part].rank))

    def alpha(self, part: str, layer: str) -> float:
        return float(self.alphas[part].get(layer.removeprefix("text_model."), self.base[part].alpha))


def read_header(metadata: Mapping[str, str]) -> Header:
    """The header of an exported file. Raises ValueError for one that doesn't say how strong the LoRA is."""
    try:
        config = json.loads(metadata[_HEADER_KEY])
        alphas = {name.rpartition(".")[0]: config[name] for name in config if name.endswith((".lora_alpha", ".alpha"))}
        first = next(iter(alphas))
        return Header(
            base={part: LayerSize(rank=config[f"{part}.r"], alpha=alpha) for part, alpha in alphas.items()},
            ranks={part: by_layer(config.get(f"{part}.rank_pattern", {})) for part in alphas},
            alphas={part: by_layer(config.get(f"{part}.alpha_pattern", {})) for part in alphas},
            kind=_KINDS.get(config.get(f"{first}.peft_type"), "lora"),
            factor=int(config.get(f"{first}.decompose_factor", -1)),
        )
    except (KeyError, StopIteration, TypeError) as error:
        raise ValueError("the file's header does not say how strong the LoRA is") from error


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _exported(name: str, *, prefix: str) -> str:
    in_text = part_of(name) is not None
    for ours, theirs in _TEXT_NAMES if in_text else _DENOISER_NAMES:
        if name.endswith(ours):
            renamed = name.removesuffix(ours) + theirs
            return renamed if in_text else f"{prefix}.{renamed}"
    raise ValueError(f"{name} is not a parameter of an adapter")


def _imported(name: str, *, prefix: str) -> str:
    in_text = part_of(name) is not None
    for ours, theirs in _TEXT_NAMES if in_text else _DENOISER_NAMES:
        if name.endswith(theirs) and (in_text or name.startswith(f"{prefix}.")):
            own = name if in_text else name.removeprefix(f"{prefix}.")
            return own.removesuffix(theirs) + ours
    raise ValueError(f"{name} is not a tensor of an exported {prefix} adapter")
