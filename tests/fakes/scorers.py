"""Tiny random models of the real classes that score pictures: DINO's ViT and CLIP, as folders of transformers.

The weights come from numpy, and the shapes from models on the meta device: no tensor operation is run here, so a
process that forks may call it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

SIDE = 16


def _save(model: Any, folder: Path, seed: int) -> None:
    draw = np.random.default_rng(seed)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if "position_ids" not in name}
    weights = {
        name: np.asarray(0.3 * draw.standard_normal(shape), np.float32) for name, shape in sorted(shapes.items())
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)


def build_dino(folder: Path, *, seed: int = 1) -> Path:
    import torch
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=SIDE, patch_size=8
    )
    with torch.device("meta"):
        model = ViTModel(config, add_pooling_layer=False)
    _save(model, folder, seed)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def build_clip(folder: Path, tokenizer: Path, *, seed: int = 2) -> Path:
    """`tokenizer` is a folder with vocab.json and merges.txt, such as that of the tiny SDXL."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = json.loads((tokenizer / "vocab.json").read_text())
    # CLIP reads a text at the place of its last token.
    ends = {"bos_token_id": words["<|startoftext|>"], "eos_token_id": words["<|endoftext|>"]}
    text = CLIPTextConfig(**small, **ends, vocab_size=1000, max_position_embeddings=77)
    vision = CLIPVisionConfig(**small, image_size=SIDE, patch_size=8)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    with torch.device("meta"):
        model = CLIPModel(config)
    _save(model, folder, seed)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder / file.name)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )
    return folder
