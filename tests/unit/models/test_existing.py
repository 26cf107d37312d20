"""LoRA files of other programs, as a run's parameters."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.base import ExistingLora
from dreambooth_resume.models.lora_layers import LayerSize
from dreambooth_resume.models.sdxl.existing import read_existing

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
SHAPES = {LAYER: (640, 640), CONV: (320, 320, 3, 3)}


def read(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> ExistingLora:
    return read_existing(
        save(tensors, metadata), where="--network_weights x", unet_config={"layers_per_block": 2}, shapes=SHAPES
    )


def pair(rank: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rank, 640, generator=generator), torch.randn(640, rank, generator=generator)


def test_kohyas_own_names_of_the_blocks_are_read_with_their_alphas() -> None:
    down, up = pair()
    kernel, outputs = torch.randn(2, 320, 3, 3), torch.randn(320, 2, 1, 1)
    text = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    found = read(
        {
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight": down.half(),
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight": up.half(),
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.alpha": torch.tensor(1.0),
            "lora_unet_input_blocks_1_0_in_layers_2.lora_down.weight": kernel,
            "lora_unet_input_blocks_1_0_in_layers_2.lora_up.weight": outputs,
            "lora_unet_input_blocks_1_0_in_layers_2.alpha": torch.tensor(0.5),
            f"{text}.lora_down.weight": torch.zeros(4, 768),
            f"{text}.lora_up.weight": torch.zeros(3072, 4),
            f"{text}.alpha": torch.tensor(2.0),
        }
    )
    assert found.sizes == {
        "unet": {LAYER: LayerSize(rank=4, alpha=1), CONV: LayerSize(rank=2, alpha=0.5)},
        "text_encoder": {"encoder.layers.0.mlp.fc1": LayerSize(rank=4, alpha=2)},
    }
    assert torch.equal(found.values[f"{LAYER}.lora_A.weight"], down.half().float())
    assert torch.equal(found.values[f"{CONV}.lora_B.weight"], outputs)
    assert "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight" in found.values


@pytest.mark.parametrize(
    ("down_end", "up_end"),
    [(".lora.down.weight", ".lora.up.weight"), (".lora_A.weight", ".lora_B.weight")],
    ids=["script", "peft"],
)
def test_diffusers_names_are_read(down_end: str, up_end: str) -> None:
    down, up = pair()
    found = read({f"unet.{LAYER}{down_end}": down, f"unet.{LAYER}{up_end}": up})
    assert found.sizes == {"unet": {LAYER: LayerSize(rank=4, alpha=4)}}
    assert torch.equal(found.values[f"{LAYER}.lora_B.weight"], up)


def test_alpha_is_what_the_header_says_of_the_layer() -> None:
    down, up = pair()
    tensors = {f"unet.{LAYER}.lora.down.weight": down, f"unet.{LAYER}.lora.up.weight": up}
    for config, alpha in (
        ({"unet.lora_alpha": 16, "unet.r": 4}, 16),
        ({"unet.lora_alpha": 16, "unet.alpha_pattern": {"attn1.to_q": 2}}, 2),
        ({"unet.lora_alpha": 16, "unet.alpha_pattern": {f"x.to_k|{LAYER}": 3}}, 3),
    ):
        found = read(tensors, {"lora_adapter_metadata": json.dumps(config)})
        assert found.sizes["unet"][LAYER].alpha == alpha


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "which is not a LoRA's"),
        ({"unet.conv_in.weight": torch.zeros(3, 3)}, "which is not a LoRA's"),
        ({f"lora_unet_{LAYER}.hada_w1_a": torch.zeros(3, 3)}, "can be read"),
        ({f"unet.{LAYER}.lora_A.weight": torch.zeros(4, 640)}, "which is not a LoRA's"),
        ({"lora_unet_a.lora_down.weight": torch.zeros(4, 640)}, "can be read"),
        ({f"unet.{LAYER}.lora_magnitude_vector": torch.zeros(640)}, "DoRA"),
        ({"unet.a.lora_A.weight": torch.zeros(4, 6), "unet.a.lora_B.weight": torch.zeros(6, 4)}, "a layer a, which"),
        (
            {f"unet.{LAYER}.lora_A.weight": torch.zeros(4, 320), f"unet.{LAYER}.lora_B.weight": torch.zeros(320, 4)},
            "320 x 320 there, and 640 x 640 here",
        ),
    ],
)
def test_what_is_no_lora_for_this_model_is_told(tensors: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read(tensors)
