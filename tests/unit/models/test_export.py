"""The exported LoRA in plain Diffusers: it loads, with its alpha, and changes the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dreambooth_resume.models.export import diffusers_metadata, diffusers_tensors, parameter_values
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import LoraSpec, add_lora
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
from dreambooth_resume.models.source import ModelSource

TARGETS = ("to_k", "to_out.0", "to_q", "to_v")


def trained(source: ModelSource, spec: LoraSpec) -> tuple[SdxlDenoiser, dict[str, torch.nn.Parameter]]:
    """A denoiser whose adapter isn't at its start any more."""
    denoiser = family_named("sdxl").load_denoiser(
        source, device=torch.device("cpu"), weight_dtype=torch.float32, gradient_checkpointing=False
    )
    assert isinstance(denoiser, SdxlDenoiser)
    parameters = add_lora(
        denoiser,
        spec,
        normal_draw=lambda number, shape: np.random.default_rng(number).standard_normal(shape, dtype=np.float32),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return denoiser, parameters


def write_lora(folder: Path, parameters: dict[str, torch.nn.Parameter], spec: LoraSpec) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in diffusers_tensors(parameters, prefix="unet").items()}
    metadata = diffusers_metadata(spec, prefix="unet", target_modules=TARGETS)
    save_file(tensors, folder / "pytorch_lora_weights.safetensors", metadata=metadata)
    return folder


@pytest.fixture
def pipeline(tiny_folder: Path) -> Any:
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline

        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe: Any) -> np.ndarray:
    image = pipe(
        "a photo of sks robot",
        num_inference_steps=2,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    return np.asarray(image)


def unet_output(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        output: torch.Tensor = unet(
            torch.randn(1, 4, 8, 8, generator=generator),
            torch.tensor([500]),
            torch.randn(1, 77, 64, generator=generator),
            added_cond_kwargs={
                "text_embeds": torch.randn(1, 32, generator=generator),
                "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
            },
            return_dict=False,
        )[0]
    return output


@pytest.mark.parametrize(
    "spec",
    [LoraSpec(rank=4, alpha=4), LoraSpec(rank=4, alpha=16), LoraSpec(rank=8, alpha=2.5, dropout=0.1)],
    ids=["alpha = rank", "alpha > rank", "fractional alpha and dropout"],
)
def test_loads_in_plain_diffusers_with_its_alpha_and_changes_the_picture(
    spec: LoraSpec, tiny_source: ModelSource, pipeline: Any, tmp_path: Path
) -> None:
    denoiser, parameters = trained(tiny_source, spec)
    denoiser.module.eval()
    before = picture(pipeline)
    without = unet_output(pipeline.unet)
    pipeline.load_lora_weights(write_lora(tmp_path / "lora", parameters, spec))
    adapter = next(iter(pipeline.unet.peft_config.values()))
    assert (adapter.r, adapter.lora_alpha) == (spec.rank, spec.alpha)
    torch.testing.assert_close(unet_output(pipeline.unet), unet_output(denoiser.module), rtol=1e-5, atol=1e-5)
    assert (unet_output(pipeline.unet) - without).abs().max() > 1e-2
    assert np.abs(picture(pipeline) - before).max() > 1e-3


def test_without_the_header_diffusers_takes_alpha_for_the_rank(
    tiny_source: ModelSource, pipeline: Any, tmp_path: Path
) -> None:
    """Why the header is there: what Diffusers' script writes would be a LoRA of another strength."""
    spec = LoraSpec(rank=4, alpha=16)
    denoiser, parameters = trained(tiny_source, spec)
    denoiser.module.eval()
    save_file(diffusers_tensors(parameters, prefix="unet"), tmp_path / "pytorch_lora_weights.safetensors")
    pipeline.load_lora_weights(tmp_path)
    assert not torch.allclose(unet_output(pipeline.unet), unet_output(denoiser.module), atol=1e-3)


def test_names_are_those_of_save_lora_weights(tiny_source: ModelSource, tmp_path: Path) -> None:
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict
        from safetensors.torch import load_file

    denoiser, parameters = trained(tiny_source, LoraSpec(rank=4, alpha=4))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(denoiser.module, adapter_name="default"))
    StableDiffusionXLPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    theirs = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    ours = diffusers_tensors(parameters, prefix="unet")
    assert list(ours) == sorted(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_names_go_there_and_back(tiny_source: ModelSource) -> None:
    _, parameters = trained(tiny_source, LoraSpec(rank=4, alpha=4))
    back = parameter_values(diffusers_tensors(parameters, prefix="unet"), prefix="unet")
    assert list(back) == list(parameters)
    assert all(torch.equal(back[name], parameters[name]) for name in back)


@pytest.mark.parametrize("name", ["unet.a.to_q.weight", "text_encoder.a.lora.down.weight", "a.lora.down.weight"])
def test_foreign_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name.split(".")[0]):
        parameter_values({name: torch.zeros(1)}, prefix="unet")


def test_header_is_text_sorted_and_has_only_what_a_reader_needs() -> None:
    metadata = diffusers_metadata(
        LoraSpec(rank=4, alpha=8.0, dropout=0.5), prefix="unet", target_modules=("to_v", "to_k")
    )
    assert metadata["format"] == "pt"
    assert metadata == {key: metadata[key] for key in sorted(metadata)}
    assert json.loads(metadata["lora_adapter_metadata"]) == {
        "unet.lora_alpha": 8,
        "unet.r": 4,
        "unet.target_modules": ["to_k", "to_v"],
    }
