"""SDXL's own files: the checks before loading, the encoders, the UNet."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.base import LatentScale, ModelFacts
from dreambooth_resume.models.digests import digest_files
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.source import ModelSource, resolve_source

CPU = torch.device("cpu")


def check(folder: Path) -> ModelFacts:
    return family_named("sdxl").check(resolve_source(str(folder), hub=HuggingFaceHub()))


def test_facts_come_from_the_configuration_files(tiny_folder: Path) -> None:
    assert check(tiny_folder) == ModelFacts(
        latent_channels=4,
        pixels_per_latent=8,
        latent_scale=LatentScale(scaling_factor=0.13025),
        num_train_timesteps=1000,
        prediction_type="epsilon",
        picture_side=128,
        text_layers=2,
    )


def test_v_prediction_and_latent_statistics_are_seen(model_copy: Path, edit_config: Callable[..., None]) -> None:
    edit_config("scheduler/scheduler_config.json", prediction_type="v_prediction")
    edit_config("vae/config.json", latents_mean=[1, 2, 3, 4], latents_std=[4, 3, 2, 1])
    facts = check(model_copy)
    assert facts.prediction_type == "v_prediction"
    assert facts.latent_scale == LatentScale(
        scaling_factor=0.13025, mean=(1.0, 2.0, 3.0, 4.0), std=(4.0, 3.0, 2.0, 1.0)
    )


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("unet/config.json", {"addition_embed_type": None}, "not SDXL"),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"projection_class_embeddings_input_dim": 5 * 8 + 32}, "refiner"),
        ("vae/config.json", {"latent_channels": 16}, "16 latent channels"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "sample"),
    ],
)
def test_model_that_cannot_be_trained_is_refused_before_loading(
    name: str, changes: dict[str, Any], words: str, model_copy: Path, edit_config: Callable[..., None]
) -> None:
    edit_config(name, **changes)
    with pytest.raises(BadInput, match=words) as caught:
        check(model_copy)
    assert caught.value.where is not None
    assert caught.value.fix is not None


@pytest.mark.parametrize("damage", [b"", b"\x00" * 7, b"\xff" * 100, b"\x10" + b"\x00" * 7 + b"{}"])
def test_damaged_weights_are_named_when_the_adapter_is_sized(damage: bytes, model_copy: Path) -> None:
    (model_copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(damage)
    source = resolve_source(str(model_copy), hub=HuggingFaceHub())
    with pytest.raises(BadInput, match=r"diffusion_pytorch_model\.safetensors"):
        family_named("sdxl").adapter_parameters(source, LoraSpec(rank=4, alpha=4))


def test_keys_of_prompts_and_latents_depend_on_their_own_files_alone(tiny_source: ModelSource) -> None:
    family = family_named("sdxl")
    digests = digest_files(tiny_source.files, cache_file=None)
    prompt_key, latents_key = family.prompt_key(digests), family.latents_key(digests)
    assert prompt_key != latents_key
    for name in digests.files:
        other = type(digests)({**digests.files, name: "0" * 64})
        assert (family.prompt_key(other) != prompt_key) == name.startswith(("text_encoder", "tokenizer"))
        assert (family.latents_key(other) != latents_key) == name.startswith("vae/")


def test_prompt_embeddings_are_those_of_diffusers_pipeline(tiny_source: ModelSource, tiny_folder: Path) -> None:
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline

        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_folder)
    encoders = family_named("sdxl").encoders(tiny_source, device=CPU)
    long = "the dog " * 100  # longer than 77 tokens
    for prompt, clip_skip in (("a photo of sks robot", None), ("", None), (long, None), ("a dog", 0), ("a dog", 1)):
        embeds, pooled = encoders.encode_prompt(prompt, clip_skip=clip_skip)
        theirs, _, their_pooled, _ = pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=CPU, clip_skip=clip_skip
        )
        assert embeds.shape == (77, 64)
        assert pooled.shape == (32,)
        assert embeds.dtype == pooled.dtype == np.float32
        np.testing.assert_allclose(embeds, theirs[0].detach().numpy(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(pooled, their_pooled[0].detach().numpy(), rtol=0, atol=1e-6)


def test_a_prompt_that_is_cut_off_is_said_once_with_what_is_lost(
    tiny_source: ModelSource, caplog: pytest.LogCaptureFixture
) -> None:
    encoders = family_named("sdxl").encoders(tiny_source, device=CPU)
    encoders.encode_prompt("a photo of sks robot")
    assert caplog.records == []
    encoders.encode_prompt("dog " * 200 + "sunset")
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith("sunset")
    assert "SDXL reads 75" in told


def test_latents_are_those_of_diffusers_vae(tiny_source: ModelSource, tiny_folder: Path) -> None:
    with quiet_loading():
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(tiny_folder, subfolder="vae")
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 64, 48)).astype(np.float32)
    mean, logvar = family_named("sdxl").encoders(tiny_source, device=CPU).encode_pixels(pixels)
    with torch.no_grad():
        distribution = vae.encode(torch.from_numpy(pixels)[None]).latent_dist
    assert mean.shape == logvar.shape == (4, 8, 6)
    assert mean.dtype == logvar.dtype == torch.float32
    assert not mean.requires_grad
    assert torch.equal(mean, distribution.mean[0])
    assert torch.equal(logvar, distribution.logvar[0])


def test_encoders_work_again_after_free_and_give_the_same(tiny_source: ModelSource) -> None:
    encoders = family_named("sdxl").encoders(tiny_source, device=CPU)
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(3, 32, 32)
    prompt, latents = encoders.encode_prompt("a dog"), encoders.encode_pixels(pixels)
    encoders.free()
    encoders.free()
    assert all(np.array_equal(one, two) for one, two in zip(encoders.encode_prompt("a dog"), prompt, strict=True))
    assert all(torch.equal(one, two) for one, two in zip(encoders.encode_pixels(pixels), latents, strict=True))


def test_unet_in_bf16_still_tells_1023_pixels_from_1024(tiny_source: ModelSource) -> None:
    denoiser = family_named("sdxl").load_denoiser(
        tiny_source, device=CPU, weight_dtype=torch.bfloat16, gradient_checkpointing=False
    )
    seen = []
    denoiser.module.register_forward_pre_hook(  # type: ignore[call-overload]
        lambda module, args, kwargs: seen.append(kwargs["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    with torch.no_grad():
        output = denoiser.predict(
            torch.zeros(1, 4, 8, 8),
            torch.tensor([3]),
            prompt_embeds_BSD=torch.zeros(1, 77, 64),
            pooled_prompt_embeds_BP=torch.zeros(1, 32),
            time_ids_B6=torch.tensor([[1023.0, 1024.0, 0.0, 0.0, 64.0, 64.0]]),
        )
    assert output.dtype == torch.float32
    assert seen[0].tolist() == [[1023.0, 1024.0, 0.0, 0.0, 64.0, 64.0]]


def test_model_of_the_edm_formulation_is_known_by_its_scheduler(
    tiny_source: ModelSource, model_copy: Path, edit_config: Callable[..., None]
) -> None:
    assert not family_named("sdxl").check(tiny_source).is_edm
    edit_config("scheduler/scheduler_config.json", _class_name="EDMEulerScheduler")
    assert check(model_copy).is_edm


def test_alphas_are_those_of_ddpm_scheduler_for_the_models_configuration(
    tiny_source: ModelSource, tiny_folder: Path
) -> None:
    from diffusers import DDPMScheduler

    denoiser = family_named("sdxl").load_denoiser(
        tiny_source, device=CPU, weight_dtype=torch.float32, gradient_checkpointing=False
    )
    scheduler = DDPMScheduler.from_pretrained(tiny_folder, subfolder="scheduler")
    assert torch.equal(denoiser.noise_schedule.alphas_cumprod_T, scheduler.alphas_cumprod)
    assert denoiser.noise_schedule.prediction_type == scheduler.config.prediction_type


def test_checks_need_no_torch_and_training_with_caches_loads_no_encoder_and_says_nothing(tiny_folder: Path) -> None:
    """In a process of its own, since only there it shows what is imported and printed."""
    script = f"""
import json, sys
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.source import resolve_source
source = resolve_source({str(tiny_folder)!r}, hub=HuggingFaceHub())
family = family_named(source.family)
family.check(source)
family.adapter_parameters(source, LoraSpec(rank=4, alpha=4))
early = [name for name in ("torch", "diffusers", "transformers", "huggingface_hub") if name in sys.modules]
import numpy, torch
cpu = torch.device("cpu")
encoders = family.encoders(source, device=cpu)
denoiser = family.load_denoiser(source, device=cpu, weight_dtype=torch.float32, gradient_checkpointing=False)
from dreambooth_resume.models.lora import add_lora
add_lora(denoiser, LoraSpec(rank=4, alpha=4), normal_draw=lambda number, shape: numpy.zeros(shape, numpy.float32))
encoders.free()
parts = ("transformers.models.clip", "diffusers.pipelines.s", "diffusers.models.autoencoders.autoencoder_kl")
late = [name for name in sys.modules if name.startswith(parts)]
print(json.dumps([early, late]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]
    assert done.stderr == ""
