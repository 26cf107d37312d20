"""DoRA: rows of the weight keep their direction and length apart, and start where the frozen ones are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
from dreambooth_resume.models.source import ModelSource

SPEC = LoraSpec(rank=4, alpha=8, dora=True)
MAGNITUDE = ".lora_magnitude_vector"


def load(source: ModelSource, dtype: torch.dtype = torch.float32) -> SdxlDenoiser:
    denoiser = family_named("sdxl").load_denoiser(
        source, device=torch.device("cpu"), weight_dtype=dtype, gradient_checkpointing=False
    )
    assert isinstance(denoiser, SdxlDenoiser)
    return denoiser


def normal_draw(number: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape, dtype=np.float32)


def magnitudes(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.nn.Parameter]:
    return {name: one for name, one in parameters.items() if name.endswith(MAGNITUDE)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_every_layer_has_a_magnitude_in_float32_that_starts_at_its_rows_lengths(
    tiny_source: ModelSource, dtype: torch.dtype
) -> None:
    denoiser = load(tiny_source, dtype)
    torch.manual_seed(1)  # peft draws before we set our own values: none of that may stay
    parameters = add_lora(denoiser, SPEC, normal_draw=normal_draw)
    torch.manual_seed(2)
    again = add_lora(load(tiny_source, dtype), SPEC, normal_draw=normal_draw)
    layers = {name.removesuffix(".lora_A.weight") for name in parameters if name.endswith(".lora_A.weight")}
    assert {name.removesuffix(MAGNITUDE) for name in magnitudes(parameters)} == layers
    frozen = load(tiny_source, dtype).module
    for name, magnitude in magnitudes(parameters).items():
        weight = frozen.get_parameter(f"{name.removesuffix(MAGNITUDE)}.weight")
        assert magnitude.dtype == torch.float32
        assert magnitude.requires_grad
        torch.testing.assert_close(magnitude.detach(), weight.float().norm(dim=1), rtol=1e-6, atol=0)
    assert list(parameters) == list(again)
    assert all(torch.equal(parameters[name], again[name]) for name in parameters)


def test_a_layer_computes_with_rows_of_the_trained_length(tiny_source: ModelSource) -> None:
    """Formula (5) of the paper: W' = m * (W + s BA) / |W + s BA|, row by row."""
    denoiser = load(tiny_source)
    parameters = add_lora(denoiser, SPEC, normal_draw=normal_draw)
    name = next(iter(magnitudes(parameters))).removesuffix(MAGNITUDE)
    with torch.no_grad():
        parameters[f"{name}.lora_B.weight"].normal_(generator=torch.Generator().manual_seed(4))
        parameters[f"{name}{MAGNITUDE}"].mul_(1.5)
        layer = denoiser.module.get_submodule(name)
        weight = layer.base_layer.weight + SPEC.alpha / SPEC.rank * (  # type: ignore[operator, union-attr]
            parameters[f"{name}.lora_B.weight"] @ parameters[f"{name}.lora_A.weight"]
        )
        weight = parameters[f"{name}{MAGNITUDE}"][:, None] * weight / weight.norm(dim=1, keepdim=True)
        inputs = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(layer(inputs), inputs @ weight.T, rtol=1e-4, atol=1e-4)
