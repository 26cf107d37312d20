"""A LoRA on the text encoders: what it changes, what it leaves alone, and what is learned through it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora, part_of
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
from dreambooth_resume.models.sdxl.text_encoders import SdxlTextEncoders
from dreambooth_resume.models.source import ModelSource

CPU = torch.device("cpu")
PROMPTS = ("a photo of sks robot", "a red dog")
Parameters = dict[str, torch.nn.Parameter]


def normal_draw(number: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape, dtype=np.float32)


def load(
    source: ModelSource, dtype: torch.dtype = torch.float32, *, checkpointing: bool = False
) -> tuple[SdxlDenoiser, SdxlTextEncoders]:
    family = family_named("sdxl")
    options = {"device": CPU, "weight_dtype": dtype, "gradient_checkpointing": checkpointing}
    denoiser, encoders = family.load_denoiser(source, **options), family.load_text_encoders(source, **options)  # type: ignore[arg-type]
    assert isinstance(denoiser, SdxlDenoiser)
    assert isinstance(encoders, SdxlTextEncoders)
    return denoiser, encoders


def with_lora(source: ModelSource, spec: LoraSpec, **options: object) -> tuple[SdxlTextEncoders, Parameters]:
    denoiser, encoders = load(source, **options)  # type: ignore[arg-type]
    return encoders, add_lora(denoiser, spec, normal_draw=normal_draw, text_encoders=encoders)


def of_text(parameters: Mapping[str, torch.nn.Parameter], part: str | None = None) -> Parameters:
    return {name: one for name, one in parameters.items() if part_of(name) and part in (None, part_of(name))}


def encode(encoders: SdxlTextEncoders) -> tuple[torch.Tensor, torch.Tensor]:
    return encoders.encode(encoders.tokenize(PROMPTS))


@pytest.mark.parametrize("clip_skip", [None, 1])
def test_encodes_as_the_frozen_encoders_do(tiny_source: ModelSource, clip_skip: int | None) -> None:
    family = family_named("sdxl")
    encoders = family.load_text_encoders(
        tiny_source, device=CPU, weight_dtype=torch.float32, gradient_checkpointing=False, clip_skip=clip_skip
    )
    assert isinstance(encoders, SdxlTextEncoders)
    frozen = family.encoders(tiny_source, device=CPU)
    prompt_embeds, pooled = encode(encoders)
    for row, prompt in enumerate(PROMPTS):
        expected, expected_pooled = map(torch.from_numpy, frozen.encode_prompt(prompt, clip_skip=clip_skip))
        torch.testing.assert_close(prompt_embeds[row], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pooled[row], expected_pooled, rtol=1e-5, atol=1e-5)


def test_a_long_prompt_is_cut_and_said(tiny_source: ModelSource, caplog: pytest.LogCaptureFixture) -> None:
    _, encoders = load(tiny_source)
    tokens = encoders.tokenize(["red " * 100 + "dog"])
    assert [one.shape for one in tokens] == [(1, 77), (1, 77)]
    assert "cut off" in caplog.text
    assert "dog" in caplog.text


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_fresh_adapter_changes_nothing(tiny_source: ModelSource, dora: bool) -> None:
    _, plain = load(tiny_source)
    adapted, _ = with_lora(tiny_source, LoraSpec(rank=4, alpha=16, dora=dora))
    for before, after in zip(encode(plain), encode(adapted), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_adapter_sits_on_the_attention_projections_of_both_and_nothing_else_trains(tiny_source: ModelSource) -> None:
    encoders, parameters = with_lora(tiny_source, LoraSpec(rank=4, alpha=4))
    assert list(parameters) == sorted(parameters)
    for part, model in encoders.models.items():
        mine = of_text(parameters, part)
        layers = {name.rsplit(".lora_", 1)[0].rsplit(".", 1)[1] for name in mine}
        assert layers == {"q_proj", "k_proj", "v_proj", "out_proj"}
        assert all(name.startswith(f"{part}.text_model.encoder.layers.") for name in mine)
        trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        assert trained == {id(parameter) for parameter in mine.values()}


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_size_is_known_from_the_headers_before_loading(tiny_source: ModelSource, dora: bool) -> None:
    _, parameters = with_lora(tiny_source, LoraSpec(rank=5, alpha=5, dora=dora))
    counted = sum(parameter.numel() for parameter in parameters.values())
    assert (
        family_named("sdxl").adapter_parameters(tiny_source, LoraSpec(rank=5, alpha=5, dora=dora), text_encoders=True)
        == counted
    )


def test_the_denoisers_part_starts_as_it_does_alone(tiny_source: ModelSource) -> None:
    denoiser, _ = load(tiny_source)
    alone = add_lora(denoiser, LoraSpec(rank=4, alpha=4), normal_draw=normal_draw)
    _, together = with_lora(tiny_source, LoraSpec(rank=4, alpha=4))
    assert alone.keys() == together.keys() - of_text(together).keys()
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    # No two matrices get the same draw.
    starts = [tuple(one.flatten()[:4].tolist()) for name, one in together.items() if ".lora_A." in name]
    assert len(set(starts)) == len(starts)


def test_gradients_flow_into_every_layer_that_is_read(tiny_source: ModelSource) -> None:
    """All but the first encoder's last layer: SDXL reads the second-to-last hidden state of it, and nothing else."""
    encoders, parameters = with_lora(tiny_source, LoraSpec(rank=4, alpha=4))
    prompt_embeds, pooled = encode(encoders)
    (prompt_embeds.square().sum() + pooled.square().sum()).backward()
    moved = {name for name, one in of_text(parameters).items() if one.grad is not None and one.grad.abs().max() > 0}
    expected = {
        name
        for name in of_text(parameters)
        if ".lora_B." in name and not name.startswith("text_encoder.text_model.encoder.layers.1.")
    }
    assert moved == expected


@pytest.mark.parametrize("spec", [LoraSpec(rank=4, alpha=4, dropout=0.5), LoraSpec(rank=4, alpha=4, dora=True)])
def test_gradient_checkpointing_gives_the_same_gradients(tiny_source: ModelSource, spec: LoraSpec) -> None:
    def gradients(*, checkpointing: bool) -> dict[str, torch.Tensor]:
        encoders, parameters = with_lora(tiny_source, spec, checkpointing=checkpointing)
        torch.manual_seed(3)
        prompt_embeds, pooled = encode(encoders)
        (prompt_embeds.square().sum() + pooled.square().sum()).backward()
        return {name: one.grad for name, one in of_text(parameters).items() if one.grad is not None}

    plain, checkpointed = gradients(checkpointing=False), gradients(checkpointing=True)
    assert plain.keys() == checkpointed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[name], rtol=1e-5, atol=1e-6)


def test_checkpointing_is_on_in_both(tiny_source: ModelSource) -> None:
    _, encoders = load(tiny_source, checkpointing=True)
    for model in encoders.models.values():
        assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_adapter_is_float32_on_bf16_encoders(tiny_source: ModelSource) -> None:
    encoders, parameters = with_lora(tiny_source, LoraSpec(rank=4, alpha=4, dora=True), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in of_text(parameters).values()} == {torch.float32}
    for model in encoders.models.values():
        frozen = {parameter.dtype for parameter in model.parameters() if not parameter.requires_grad}
        assert frozen == {torch.bfloat16}
