"""What is counted from names and shapes is what the real UNet has, does and keeps: held against Diffusers and torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional
from torch.utils.flop_counter import FlopCounterMode

from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.sdxl.demands import unet_work
from dreambooth_resume.models.sdxl.family import LORA_TARGET_MODULES, SdxlFamily
from dreambooth_resume.models.sdxl.stock import TEXT_PARAMETERS, VAE_PARAMETERS, stock_unet_shapes
from dreambooth_resume.models.source import ModelSource

RANK, SIDE = 16, 512
# stabilityai/stable-diffusion-xl-base-1.0, unet/config.json: what differs from the class's defaults.
CONFIG: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(scope="module")
def unet() -> Any:
    """SDXL's UNet without memory behind it, in bfloat16, with a LoRA of rank 16 by peft."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from peft import LoraConfig, inject_adapter_in_model

    with torch.device("meta"):
        unet = UNet2DConditionModel(**CONFIG).to(torch.bfloat16)
    unet.shapes = {name: tuple(one.shape) for name, one in unet.named_parameters()}
    unet.requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(LORA_TARGET_MODULES), init_lora_weights=False)
    inject_adapter_in_model(config, unet)
    for name, parameter in unet.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
            parameter.requires_grad_(True)
    return unet.train()


def predicted(unet: Any) -> torch.Tensor:
    def meta(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta", dtype=torch.bfloat16)

    added = {"text_embeds": meta(1, 1280), "time_ids": torch.empty(1, 6, device="meta")}
    latents, text = meta(1, 4, SIDE // 8, SIDE // 8), meta(1, 77, 2048)
    time = torch.empty(1, device="meta", dtype=torch.long)
    result: torch.Tensor = unet(latents, time, text, added_cond_kwargs=added, return_dict=False)[0]
    return result


def test_the_stock_shapes_are_those_of_diffusers_unet(unet: Any) -> None:
    assert dict(stock_unet_shapes()) == unet.shapes
    demands = SdxlFamily().demands(None, LoraSpec(rank=RANK, alpha=RANK), height=1024, width=1024)
    assert demands.denoiser_parameters == 2_567_463_684
    linear = (torch.nn.Linear,)
    own = sum(
        module.weight.numel()
        for name, module in unet.named_modules()
        if isinstance(module, linear) and name.startswith(("down_", "mid_", "up_")) and ".lora_" not in name
    )
    assert demands.linear_parameters == own == 2_225_356_800


@pytest.mark.parametrize(("rank", "millions"), [(4, 5.80608), (16, 23.22432), (32, 46.44864), (128, 185.79456)])
def test_a_lora_on_the_attention_has_1_451_520_numbers_for_each_rank(rank: int, millions: float) -> None:
    # 70 transformer layers of two attentions; of each, q, k, v and out have rank x (inputs + outputs) numbers.
    by_hand = sum(
        count * rank * (2 * 4 * width + 2 * 2 * width + 2 * (width + 2048)) for count, width in ((10, 640), (60, 1280))
    )
    demands = SdxlFamily().demands(None, LoraSpec(rank=rank, alpha=rank), height=1024, width=1024)
    assert demands.adapter_parameters == by_hand == rank * 1_451_520 == round(millions * 1e6)


def test_the_encoders_are_as_large_as_transformers_and_diffusers_make_them() -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        small = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
        large = CLIPTextModelWithProjection(
            CLIPTextConfig(
                hidden_size=1280,
                intermediate_size=5120,
                num_hidden_layers=32,
                num_attention_heads=20,
                projection_dim=1280,
            )
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    text = sum(one.numel() for model in (small, large) for one in model.parameters())
    assert (text, sum(one.numel() for one in vae.parameters())) == (TEXT_PARAMETERS, VAE_PARAMETERS)


def test_operations_are_those_that_torch_counts(unet: Any) -> None:
    ranks = {
        name.removesuffix(".weight"): RANK
        for name in unet.shapes
        if name.removesuffix(".weight").endswith(tuple(f".{one}" for one in LORA_TARGET_MODULES))
    }
    work = unet_work(unet.shapes, ranks, latent_height=SIDE // 8, latent_width=SIDE // 8)
    unet.disable_gradient_checkpointing()
    with FlopCounterMode(display=False) as counter:
        prediction = predicted(unet)
        forward = counter.get_total_flops()
        prediction.float().pow(2).mean().backward()
    assert work.forward_flops == forward
    assert work.backward_flops == pytest.approx(counter.get_total_flops() - forward, rel=0.02)


class _Fused(torch.autograd.Function):
    """Keeps what a fused attention keeps: its inputs, its output and a number a row."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result, torch.empty(query.shape[:3], device="meta"))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.saved_tensors[:3]


def _as_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms in float32, linear layers and convolutions in bfloat16: torch's lists for autocast on a GPU."""
    functional, half = torch.nn.functional, torch.bfloat16
    group, layer, linear, conv = (
        getattr(functional, name) for name in ("group_norm", "layer_norm", "linear", "conv2d")
    )

    def up(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) else value

    def in_float32(norm: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: norm(*map(up, given), **{name: up(value) for name, value in named.items()})

    monkeypatch.setattr(functional, "group_norm", in_float32(group))
    monkeypatch.setattr(functional, "layer_norm", in_float32(layer))
    monkeypatch.setattr(functional, "linear", lambda inputs, *rest: linear(inputs.to(half), *rest))
    monkeypatch.setattr(functional, "conv2d", lambda inputs, *rest, **more: conv(inputs.to(half), *rest, **more))
    monkeypatch.setattr(
        functional,
        "scaled_dot_product_attention",
        lambda query, key, value, *rest, **more: _Fused.apply(query.to(half), key.to(half), value.to(half)),
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_autograd_keeps(checkpointing: bool, unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _as_autocast(monkeypatch)
    (unet.enable_gradient_checkpointing if checkpointing else unet.disable_gradient_checkpointing)()
    weights = {parameter.untyped_storage()._cdata for parameter in unet.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no other storage gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        predicted(unet)
    counted = sum(storage.nbytes() for storage in kept.values())
    demands = SdxlFamily().demands(None, LoraSpec(rank=RANK, alpha=RANK), height=SIDE, width=SIDE)
    expected = demands.checkpointed_bytes if checkpointing else demands.kept_bytes
    # Keys and values of the text are kept, too, and do not shrink with the picture.
    assert counted == pytest.approx(expected, rel=0.015)


def test_a_model_on_this_machine_is_counted_by_its_own_files(tiny_source: ModelSource) -> None:
    family, spec = SdxlFamily(), LoraSpec(rank=4, alpha=4)
    demands = family.demands(tiny_source, spec, height=128, width=128)
    assert not demands.is_stock
    assert demands.adapter_parameters == family.adapter_parameters(tiny_source, spec)
    assert 0 < demands.linear_parameters < demands.denoiser_parameters < 3_000_000
    stock = family.demands(None, spec, height=128, width=128)
    assert demands.forward_flops < stock.forward_flops / 100
    assert demands.kept_bytes < stock.kept_bytes / 10
