"""A base in fewer bits: smaller, close to the whole one, and the same every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dreambooth_resume.models.base import BasePrecision
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.quantised import Fp8Linear
from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
from dreambooth_resume.models.source import ModelSource

KINDS: tuple[BasePrecision, ...] = ("nf4", "int8", "fp8")
STORED = {"nf4": torch.uint8, "int8": torch.int8, "fp8": torch.float8_e4m3fn}
LARGEST_ERROR = {"nf4": 0.2, "int8": 0.05, "fp8": 0.1}


def load(source: ModelSource, kind: BasePrecision | None, *, dtype: torch.dtype = torch.float32) -> SdxlDenoiser:
    denoiser = family_named("sdxl").load_denoiser(
        source, device=torch.device("cpu"), weight_dtype=dtype, gradient_checkpointing=False, base_precision=kind
    )
    assert isinstance(denoiser, SdxlDenoiser)
    return denoiser


def predict(denoiser: SdxlDenoiser) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return denoiser.predict(
        torch.randn(1, 4, 8, 8, generator=generator),
        torch.tensor([500]),
        prompt_embeds_BSD=torch.randn(1, 77, 64, generator=generator),
        pooled_prompt_embeds_BP=torch.randn(1, 32, generator=generator),
        time_ids_B6=torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_predicts_nearly_what_the_whole_base_does_and_the_same_every_time(
    kind: BasePrecision, tiny_source: ModelSource
) -> None:
    with torch.no_grad():
        whole, first, again = (predict(load(tiny_source, one)) for one in (None, kind, kind))
    assert torch.equal(first, again)
    error = ((first - whole).norm() / whole.norm()).item()
    assert 0 < error < LARGEST_ERROR[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_a_float32_lora_on_it_gets_the_gradients_that_its_loss_has(
    kind: BasePrecision, dtype: torch.dtype, tiny_source: ModelSource
) -> None:
    denoiser = load(tiny_source, kind, dtype=dtype)
    parameters = add_lora(
        denoiser,
        LoraSpec(rank=4, alpha=4),
        normal_draw=lambda number, shape: np.random.default_rng(number).standard_normal(shape, dtype=np.float32),
    )
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    layer: Any = denoiser.module.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    assert layer.base_layer.weight.dtype == STORED[kind]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = predict(denoiser).square().mean()
    loss.backward()
    gradients = {name: one.grad for name, one in parameters.items() if ".lora_B." in name}
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())
    if dtype == torch.float32 and kind == "fp8":
        _compare_with_a_difference(denoiser, parameters, loss.item())


def _compare_with_a_difference(denoiser: Any, parameters: dict[str, torch.nn.Parameter], loss: float) -> None:
    """The gradient's product with a small step is what the loss changes by."""
    step = 1e-3
    slope = sum(float((one.grad * one.grad).sum()) for one in parameters.values() if one.grad is not None)
    with torch.no_grad():
        for parameter in parameters.values():
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=step)
        changed = predict(denoiser).square().mean().item()
    assert (changed - loss) / step == pytest.approx(slope, rel=0.05)


def test_fp8_rows_are_scaled_to_the_whole_range() -> None:
    """Weights of SDXL are a few hundredths: unscaled, e4m3 would keep a bit or two of them."""
    plain = torch.nn.Linear(64, 32, bias=False)
    with torch.no_grad():
        plain.weight.copy_(torch.randn(32, 64, generator=torch.Generator().manual_seed(1)))
        plain.weight.mul_(torch.logspace(-4, 0, 32).unsqueeze(1))
    small = Fp8Linear(plain, dtype=torch.float32)
    # What an identity gives is the weights: e4m3 has three bits behind the point, so it rounds by a sixteenth at most.
    error = (small(torch.eye(64)) - plain(torch.eye(64))).abs().amax(dim=0) / plain.weight.abs().amax(dim=1)
    assert error.max() <= 1 / 16
    assert small.weight.element_size() == 1
