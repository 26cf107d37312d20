"""Our sampling loop against Diffusers' pipeline on the same parts: the same picture, and nothing drawn on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dreambooth_resume.models.base import Denoiser, SamplingSettings
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.sdxl.family import SdxlFamily
from dreambooth_resume.models.source import ModelSource, resolve_source

CPU = torch.device("cpu")
SETTINGS = SamplingSettings(height=32, width=48, num_inference_steps=4)
NOISE = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 4, 4, 6), dtype=np.float32))


def loaded(source: ModelSource) -> Denoiser:
    denoiser = SdxlFamily().load_denoiser(source, device=CPU, weight_dtype=torch.float32, gradient_checkpointing=False)
    denoiser.module.eval()
    return denoiser


def embeddings(source: ModelSource, *prompts: str) -> tuple[torch.Tensor, torch.Tensor]:
    encoders = SdxlFamily().encoders(source, device=CPU)
    pairs = [encoders.encode_prompt(prompt) for prompt in prompts]
    return torch.from_numpy(np.stack([one for one, _ in pairs])), torch.from_numpy(np.stack([two for _, two in pairs]))


def ours(source: ModelSource, settings: SamplingSettings, noise: torch.Tensor, *prompts: str) -> NDArray[np.uint8]:
    family = SdxlFamily()
    sampler, encoders = family.sampler(source, device=CPU), family.encoders(source, device=CPU)
    negative = None if sampler.negative_prompt_is_zeros else embeddings(source, *[""] * len(prompts))
    latents = sampler.sample(
        loaded(source),
        noise_BCHW=noise,
        prompt_BSD_BP=embeddings(source, *prompts),
        negative_BSD_BP=negative,
        settings=settings,
        should_stop=lambda: False,
    )
    assert latents is not None
    return np.stack([encoders.decode_latents(one) for one in latents])


def theirs(source: ModelSource, settings: SamplingSettings, noise: torch.Tensor, *prompts: str) -> NDArray[np.uint8]:
    with quiet_loading():
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline

        pipeline: Any = StableDiffusionXLPipeline.from_pretrained(source.folder, local_files_only=True)
    if not settings.edm_style:
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    # Weights that could have gradients take other kernels, even where none is recorded: their last bits are others on
    # some processors, and now and then one of those rounds to another pixel. Ours are frozen, so theirs are.
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.requires_grad_(False)
    pipeline.vae.enable_slicing()  # one picture a call, as ours decodes, for the same reason
    with torch.no_grad():
        pictures = pipeline(
            list(prompts),
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            latents=noise.clone(),
            output_type="np",
        ).images
    return np.asarray((pictures * 255).round().astype(np.uint8))


@pytest.mark.parametrize("edm_style", [False, True])
def test_picture_is_that_of_diffusers_pipeline(edm_style: bool, tiny_source: ModelSource) -> None:
    settings = replace(SETTINGS, edm_style=edm_style)
    prompts = ("a photo of sks robot", "a red toy")
    assert_same_pictures(ours(tiny_source, settings, NOISE, *prompts), theirs(tiny_source, settings, NOISE, *prompts))


def assert_same_pictures(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
    """To a 255th: the pipeline decodes all pictures at once, and on some processors the last bits are others then."""
    difference = np.abs(one.astype(int) - other.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_a_model_whose_negative_prompt_is_the_empty_one(model_copy: Path, edit_config: Callable[..., None]) -> None:
    edit_config("model_index.json", force_zeros_for_empty_prompt=False)
    edit_config("vae/config.json", latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.1, 1.2, 1.3, 1.4])
    source = resolve_source(str(model_copy), hub=HuggingFaceHub())
    assert np.array_equal(
        ours(source, SETTINGS, NOISE[:1], "a photo of sks robot"),
        theirs(source, SETTINGS, NOISE[:1], "a photo of sks robot"),
    )


def test_without_guidance_the_denoiser_is_asked_once_a_step(tiny_source: ModelSource) -> None:
    settings = replace(SETTINGS, guidance_scale=1.0)
    assert np.array_equal(
        ours(tiny_source, settings, NOISE[:1], "a red toy"), theirs(tiny_source, settings, NOISE[:1], "a red toy")
    )


def test_told_to_stop_between_two_steps_there_is_no_picture_and_nothing_was_drawn(tiny_source: ModelSource) -> None:
    asked = iter([False, False, True])
    denoiser = loaded(tiny_source)
    prompt = embeddings(tiny_source, "a red toy")
    before = torch.get_rng_state()
    made = (
        SdxlFamily()
        .sampler(tiny_source, device=CPU)
        .sample(
            denoiser,
            noise_BCHW=NOISE[:1],
            prompt_BSD_BP=prompt,
            negative_BSD_BP=None,
            settings=SETTINGS,
            should_stop=lambda: next(asked),
        )
    )
    assert made is None
    assert torch.equal(torch.get_rng_state(), before)


def test_a_picture_that_does_not_fit_is_decoded_in_tiles(
    tiny_source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = SdxlFamily().encoders(tiny_source, device=CPU)
    latents = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))
    whole = encoders.decode_latents(latents)
    vae = encoders._vae
    decode = vae.decode

    def too_large(*args: Any, **options: Any) -> Any:
        if not vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(*args, **options)

    monkeypatch.setattr(vae, "decode", too_large)
    tiled = encoders.decode_latents(latents)
    assert tiled.shape == whole.shape == (128, 128, 3)
    assert not vae.use_tiling
