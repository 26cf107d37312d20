"""An SDXL LoRA in kohya's format, which AUTOMATIC1111, ComfyUI, InvokeAI and SD.Next read.

Names as Diffusers' `convert_state_dict_to_kohya` makes them of one part, but for two things. That function writes the
rank as alpha, so that any other alpha is lost. And DoRA's magnitudes keep a name there that nobody reads; in kohya's
they are a column, since ComfyUI divides them by a column: a row would make a square matrix.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dreambooth_resume.models.export import alphas_of

_PARTS = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
_ENDS = {
    ".lora.down.weight": ".lora_down.weight",
    ".lora.up.weight": ".lora_up.weight",
    ".lora_linear_layer.down.weight": ".lora_down.weight",
    ".lora_linear_layer.up.weight": ".lora_up.weight",
    ".lora_magnitude_vector": ".dora_scale",
    ".lora_magnitude_vector.weight": ".dora_scale",
}


def kohya_format(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header of the kohya file, from those of the file that Diffusers loads; sorted.

    Each layer has an `alpha`, a float32 scalar. Raises ValueError for a file that `models.export` did not make.
    """
    alphas = alphas_of(metadata)
    converted: dict[str, torch.Tensor] = {}
    ranks = set()
    for name, tensor in tensors.items():
        part, layer, end = _taken_apart(name)
        key = f"{_PARTS[part]}_{layer.replace('.', '_')}"
        # Rows are scaled: one number a row, as a column.
        converted[f"{key}{end}"] = tensor.reshape(-1, 1) if end == ".dora_scale" else tensor
        if end == ".lora_down.weight":
            converted[f"{key}.alpha"] = torch.tensor(float(alphas[part]), dtype=torch.float32)
            ranks.add(tensor.shape[0])
    if len(ranks) != 1 or len(set(alphas.values())) != 1:
        raise ValueError(f"not an adapter of one rank and one alpha: {sorted(ranks)}, {alphas}")
    header = {
        "format": "pt",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.sai_model_spec": "1.0.0",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_alpha": str(float(next(iter(alphas.values())))),
        "ss_network_dim": str(ranks.pop()),
        "ss_network_module": "networks.lora",
        "ss_v2": "False",
    }
    return dict(sorted(converted.items())), header


def _taken_apart(name: str) -> tuple[str, str, str]:
    part, _, rest = name.partition(".")
    for theirs, kohyas in _ENDS.items():
        if part in _PARTS and rest.endswith(theirs):
            return part, rest.removesuffix(theirs), kohyas
    raise ValueError(f"{name} is not a tensor of an exported SDXL adapter")
