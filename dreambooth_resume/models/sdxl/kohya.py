"""An SDXL LoRA in kohya's format, which AUTOMATIC1111, ComfyUI, InvokeAI and SD.Next read.

Names as Diffusers' `convert_state_dict_to_kohya` makes them of one part, but for two things. That function writes the
rank as alpha, so that any other alpha is lost. And DoRA's magnitudes keep a name there that nobody reads; in kohya's
they are a column, since ComfyUI divides them by a column: a row would make a square matrix. LoHa and LoKr have
LyCORIS' names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

import torch

from dreambooth_resume.models.export import Header, read_header
from dreambooth_resume.models.lycoris import HADA_ENDS, LOKR_ENDS

_KERNEL = 4
_PARTS = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
_ENDS = {
    ".lora.down.weight": ".lora_down.weight",
    ".lora.up.weight": ".lora_up.weight",
    ".lora_linear_layer.down.weight": ".lora_down.weight",
    ".lora_linear_layer.up.weight": ".lora_up.weight",
    ".lora_magnitude_vector": ".dora_scale",
    ".lora_magnitude_vector.weight": ".dora_scale",
    **{end: end for end in (*HADA_ENDS, *LOKR_ENDS)},
}
# Each layer has exactly one of them.
_ONCE = (".lora_down.weight", ".hada_w1_a", ".lokr_w1")


def kohya_format(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header of the kohya file, from those of the file that Diffusers loads; sorted.

    Each layer has an `alpha`, a float32 scalar. Raises ValueError for a file that `models.export` did not make.
    """
    found = read_header(metadata)
    converted: dict[str, torch.Tensor] = {}
    kernels: dict[str, torch.Tensor] = {}
    whole: dict[str, tuple[float, int]] = {}
    for name, tensor in tensors.items():
        part, layer, end = _taken_apart(name)
        key = f"{_PARTS[part]}_{layer.replace('.', '_')}"
        # Rows are scaled: one number a row, as a column.
        converted[f"{key}{end}"] = _column(tensor) if end == ".dora_scale" else tensor
        if end in _ONCE:
            converted[f"{key}.alpha"] = torch.tensor(found.alpha(part, layer), dtype=torch.float32)
        if end == ".lora_down.weight" and tensor.ndim == _KERNEL and tensor.shape[2:] != (1, 1):
            kernels[key] = tensor
        if end == ".lokr_w2":
            # Where neither matrix has a rank, readers know none to divide alpha by, and leave the strength at 1.
            rank = found.rank(part, layer)
            whole[key] = (found.alpha(part, layer) / rank, rank)
    for key, (strength, rank) in whole.items():
        converted[f"{key}.lokr_w1"] = converted[f"{key}.lokr_w1"] * strength
        converted[f"{key}.alpha"] = torch.tensor(float(rank), dtype=torch.float32)
    return dict(sorted(converted.items())), _header(found, converted, kernels)


def _column(magnitudes: torch.Tensor) -> torch.Tensor:
    """One number for each row [rows, 1], for each output of a convolution [outputs, 1, 1, 1]."""
    return magnitudes.reshape(-1, *(1,) * (_KERNEL - 1 if magnitudes.ndim == _KERNEL else 1))


def _header(
    found: Header, converted: Mapping[str, torch.Tensor], kernels: Mapping[str, torch.Tensor]
) -> dict[str, str]:
    """As sd-scripts writes it: rank and alpha of the linear layers, the convolutions' as arguments of the network."""
    base = next(iter(found.base.values()))
    header = {
        "format": "pt",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.sai_model_spec": "1.0.0",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_alpha": str(float(base.alpha)),
        "ss_network_dim": str(base.rank),
        "ss_network_module": "networks.lora" if found.kind == "lora" else "lycoris.kohya",
        "ss_v2": "False",
    }
    if found.kind != "lora":
        factor = {"factor": str(found.factor)} if found.kind == "lokr" else {}
        header["ss_network_args"] = json.dumps({"algo": found.kind, **factor})
    if kernels:
        sizes = Counter((len(tensor), float(converted[f"{key}.alpha"])) for key, tensor in sorted(kernels.items()))
        ((conv_dim, conv_alpha), _), *_ = sizes.most_common(1)
        header["ss_network_args"] = json.dumps({"conv_alpha": str(conv_alpha), "conv_dim": str(conv_dim)})
    return dict(sorted(header.items()))


def _taken_apart(name: str) -> tuple[str, str, str]:
    part, _, rest = name.partition(".")
    for theirs, kohyas in _ENDS.items():
        if part in _PARTS and rest.endswith(theirs):
            return part, rest.removesuffix(theirs), kohyas
    raise ValueError(f"{name} is not a tensor of an exported SDXL adapter")
