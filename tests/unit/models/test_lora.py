"""The adapter: where it sits, how it starts, what it multiplies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora, load_parameters
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
from dreambooth_resume.models.source import ModelSource


def load(source: ModelSource, dtype: torch.dtype = torch.float32) -> SdxlDenoiser:
    denoiser = family_named("sdxl").load_denoiser(
        source, device=torch.device("cpu"), weight_dtype=dtype, gradient_checkpointing=False
    )
    assert isinstance(denoiser, SdxlDenoiser)
    return denoiser


def normal_draw(number: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape, dtype=np.float32)


def predict(denoiser: SdxlDenoiser) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return denoiser.predict(
            torch.randn(1, 4, 8, 8, generator=generator),
            torch.tensor([500]),
            prompt_embeds_BSD=torch.randn(1, 77, 64, generator=generator),
            pooled_prompt_embeds_BP=torch.randn(1, 32, generator=generator),
            time_ids_B6=torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
        )


def test_adapter_sits_on_the_attention_projections_and_nothing_else_trains(tiny_source: ModelSource) -> None:
    denoiser = load(tiny_source)
    parameters = add_lora(denoiser, LoraSpec(rank=4, alpha=4), normal_draw=normal_draw)
    ends = {name.rsplit(".lora_", 1)[0].split("attn", 1)[1][2:] for name in parameters}
    assert ends == {"to_q", "to_k", "to_v", "to_out.0"}
    trained = [parameter for parameter in denoiser.module.parameters() if parameter.requires_grad]
    assert {id(parameter) for parameter in trained} == {id(parameter) for parameter in parameters.values()}
    assert list(parameters) == sorted(parameters)


def test_size_is_known_from_the_headers_before_loading(tiny_source: ModelSource) -> None:
    parameters = add_lora(load(tiny_source), LoraSpec(rank=5, alpha=5), normal_draw=normal_draw)
    counted = sum(parameter.numel() for parameter in parameters.values())
    assert family_named("sdxl").adapter_parameters(tiny_source, LoraSpec(rank=5, alpha=5)) == counted


def test_fresh_adapter_changes_nothing(tiny_source: ModelSource) -> None:
    denoiser = load(tiny_source)
    before = predict(denoiser)
    add_lora(denoiser, LoraSpec(rank=4, alpha=64), normal_draw=normal_draw)
    assert torch.equal(predict(denoiser), before)


def test_start_values_are_the_draws_over_rank_numbered_by_name(tiny_source: ModelSource) -> None:
    parameters = add_lora(load(tiny_source), LoraSpec(rank=8, alpha=8), normal_draw=normal_draw)
    downs = [parameter for name, parameter in parameters.items() if ".lora_A." in name]
    for number, parameter in enumerate(downs):
        expected = torch.from_numpy(normal_draw(number, (parameter.shape[0], parameter.shape[1])) / np.float32(8))
        assert torch.equal(parameter.detach(), expected)
    assert all(not parameter.any() for name, parameter in parameters.items() if ".lora_B." in name)
    spread = torch.cat([parameter.detach().flatten() for parameter in downs]).std().item()
    assert spread == pytest.approx(1 / 8, rel=0.05)  # peft's "gaussian"


def test_global_generator_is_not_asked_for_start_values(tiny_source: ModelSource) -> None:
    first = add_lora(load(tiny_source), LoraSpec(rank=4, alpha=4), normal_draw=normal_draw)
    torch.rand(5)
    second = add_lora(load(tiny_source), LoraSpec(rank=4, alpha=4), normal_draw=normal_draw)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_wrong_draw_is_an_error(tiny_source: ModelSource) -> None:
    with pytest.raises(ValueError, match="float64"):
        add_lora(load(tiny_source), LoraSpec(rank=4, alpha=4), normal_draw=lambda number, shape: np.zeros(shape))


def test_strength_is_alpha_over_rank(tiny_source: ModelSource) -> None:
    """With alpha doubled and B halved the output stays the same."""
    predictions = []
    for alpha, size in ((4.0, 0.02), (8.0, 0.01)):
        denoiser = load(tiny_source)
        parameters = add_lora(denoiser, LoraSpec(rank=4, alpha=alpha), normal_draw=normal_draw)
        with torch.no_grad():
            for name, parameter in parameters.items():
                if ".lora_B." in name:
                    parameter.fill_(size)
        predictions.append(predict(denoiser))
    torch.testing.assert_close(predictions[0], predictions[1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(predictions[0], predict(load(tiny_source)), atol=1e-3)


def test_adapter_is_float32_on_a_bf16_model(tiny_source: ModelSource) -> None:
    parameters = add_lora(load(tiny_source, torch.bfloat16), LoraSpec(rank=4, alpha=4), normal_draw=normal_draw)
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    first = next(parameter for name, parameter in parameters.items() if ".lora_A." in name)
    shape = (first.shape[0], first.shape[1])
    assert torch.equal(first.detach(), torch.from_numpy(normal_draw(0, shape) / np.float32(4)))  # not rounded to bf16


def test_values_are_loaded_in_place_or_refused_whole(tiny_source: ModelSource) -> None:
    parameters = add_lora(load(tiny_source), LoraSpec(rank=4, alpha=4), normal_draw=normal_draw)
    values = {name: torch.full_like(parameter, 0.5) for name, parameter in parameters.items()}
    name = next(iter(values))
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    for bad in (
        {key: value for key, value in values.items() if key != name},
        {**values, name: values[name][:1]},
        {**values, name: values[name].double()},
    ):
        with pytest.raises(ValueError, match=r"parameters are in|its value"):
            load_parameters(parameters, bad)
        assert all(torch.equal(parameters[key], before[key]) for key in parameters)
    identities = {key: id(parameter) for key, parameter in parameters.items()}
    load_parameters(parameters, values)
    assert all(torch.equal(parameters[key], values[key]) for key in parameters)
    assert identities == {key: id(parameter) for key, parameter in parameters.items()}
