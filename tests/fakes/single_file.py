"""A second tiny SDXL, whose two text encoders differ in width as SDXL's do, and a writer of the original one-file form.

The names are those of the original SDXL code (generative-models), written down here once more and independently of the
converters that are tested with them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.source import read_json
from dreambooth_resume.models.tiny import build_tiny_sdxl

WIDTHS = (32, 64)


def build_uneven_sdxl(folder: Path) -> None:
    """The tiny model with a second text encoder of twice the width, and a UNet that fits."""
    build_tiny_sdxl(folder)
    with quiet_loading(), torch.random.fork_rng(devices=[]):
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        torch.manual_seed(11)
        config = CLIPTextConfig.from_pretrained(folder / "text_encoder_2")
        config.hidden_size, config.intermediate_size, config.projection_dim = WIDTHS[1], 2 * WIDTHS[1], WIDTHS[1]
        CLIPTextModelWithProjection(config).save_pretrained(folder / "text_encoder_2")
        unet: dict[str, Any] = dict(UNet2DConditionModel.load_config(folder / "unet"))  # type: ignore[arg-type]
        unet["cross_attention_dim"] = sum(WIDTHS)
        unet["projection_class_embeddings_input_dim"] = 6 * unet["addition_time_embed_dim"] + WIDTHS[1]
        made: Any = UNet2DConditionModel.from_config(unet)
        made.save_pretrained(folder / "unet")


def main(words: Sequence[str]) -> int:
    """`words`: the folder for the model; beside it the same one is written as a single file."""
    [folder] = map(Path, words)
    build_uneven_sdxl(folder)
    write_single_file(folder, folder.with_suffix(".safetensors"))
    return 0


def write_single_file(folder: Path, path: Path, *, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The model of a Diffusers folder as one file; what was written."""
    unet = read_json(folder / "unet" / "config.json")
    tensors = {
        **_unet(load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"), layers=unet["layers_per_block"]),
        **_vae(load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")),
        **_first_encoder(load_file(folder / "text_encoder" / "model.safetensors")),
        **_second_encoder(load_file(folder / "text_encoder_2" / "model.safetensors")),
    }
    tensors = {name: tensor.to(dtype or tensor.dtype).contiguous() for name, tensor in tensors.items()}
    # What real files have beside the weights.
    tensors["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    tensors["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    save_file(tensors, path)
    return tensors


def _renamed(name: str, rules: list[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _unet(tensors: dict[str, torch.Tensor], *, layers: int) -> dict[str, torch.Tensor]:
    attentions = {found[1] for name in tensors if (found := re.match(r"up_blocks\.(\d+)\.attentions", name))}
    rules = [
        (r"^time_embedding\.linear_1", "time_embed.0"),
        (r"^time_embedding\.linear_2", "time_embed.2"),
        (r"^add_embedding\.linear_1", "label_emb.0.0"),
        (r"^add_embedding\.linear_2", "label_emb.0.2"),
        (r"^conv_in\.", "input_blocks.0.0."),
        (r"^conv_norm_out\.", "out.0."),
        (r"^conv_out\.", "out.2."),
        (r"^mid_block\.resnets\.0", "middle_block.0"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^mid_block\.resnets\.1", "middle_block.2"),
    ]
    inside = [
        (r"\.norm1\.", ".in_layers.0."),
        (r"\.conv1\.", ".in_layers.2."),
        (r"\.time_emb_proj\.", ".emb_layers.1."),
        (r"\.norm2\.", ".out_layers.0."),
        (r"\.conv2\.", ".out_layers.3."),
        (r"\.conv_shortcut\.", ".skip_connection."),
    ]
    written = {}
    for name, tensor in tensors.items():
        new = name
        if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", name):
            down, block, kind, layer = found[1] == "down", int(found[2]), found[3], int(found[4])
            number = 1 + block * (layers + 1) + layer if down else block * (layers + 1) + layer
            start = f"{'input' if down else 'output'}_blocks.{number}.{0 if kind == 'resnets' else 1}."
            new = start + name[found.end() :]
        elif found := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.", name):
            new = f"input_blocks.{1 + int(found[1]) * (layers + 1) + layers}.0.op.{name[found.end() :]}"
        elif found := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.", name):
            place = 2 if found[1] in attentions else 1
            new = f"output_blocks.{int(found[1]) * (layers + 1) + layers}.{place}.conv.{name[found.end() :]}"
        new = _renamed(new, rules)
        written["model.diffusion_model." + (_renamed(new, inside) if "resnets" in name else new)] = tensor
    return written


def _vae(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    last = max(int(found[1]) for name in tensors if (found := re.match(r"decoder\.up_blocks\.(\d+)", name)))
    rules = [
        (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
        (r"down_blocks\.(\d+)\.downsamplers\.0\.conv", r"down.\1.downsample.conv"),
        (r"up_blocks\.(\d+)\.resnets\.", lambda found: f"up.{last - int(found[1])}.block."),
        (r"up_blocks\.(\d+)\.upsamplers\.0\.conv", lambda found: f"up.{last - int(found[1])}.upsample.conv"),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"attn_1\.group_norm", "attn_1.norm"),
        (r"attn_1\.to_(q|k|v)", r"attn_1.\1"),
        (r"attn_1\.to_out\.0", "attn_1.proj_out"),
        (r"conv_norm_out", "norm_out"),
        (r"conv_shortcut", "nin_shortcut"),
    ]
    written = {}
    for name, tensor in tensors.items():
        new = _renamed(name, rules)  # type: ignore[arg-type]
        is_matrix = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", new) is not None
        written["first_stage_model." + new] = tensor[:, :, None, None] if is_matrix else tensor
    return written


def _whole(name: str) -> str:
    """With `text_model.` in front, which newer versions of transformers leave out."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def _first_encoder(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"conditioner.embedders.0.transformer.{_whole(name)}": tensor for name, tensor in tensors.items()}


def _second_encoder(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    rules = [
        (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
        (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
        (r"^text_model\.final_layer_norm\.", "ln_final."),
        (r"^text_projection\.weight", "text_projection"),
        (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
        (r"layer_norm1", "ln_1"),
        (r"layer_norm2", "ln_2"),
        (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"),
        (r"self_attn\.out_proj", "attn.out_proj"),
    ]
    whole = {_whole(name): tensor for name, tensor in tensors.items()}
    written = {}
    for name, tensor in whole.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        new = _renamed(name, rules)
        if found := re.search(r"self_attn\.q_proj\.(weight|bias)", new):
            parts = [whole[name.replace("q_proj", one)] for one in ("q_proj", "k_proj", "v_proj")]
            new, tensor = f"{new[: found.start()]}attn.in_proj_{found[1]}", torch.cat(parts)
        if new == "text_projection":
            tensor = tensor.T
        written[f"conditioner.embedders.1.model.{new}"] = tensor
    return written
