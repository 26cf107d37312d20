"""LoHa and LoKr: idle at the start, and what every reader of their files computes is what was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreambooth_resume.checkpoint.tensors import deserialise, metadata_of, serialise
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.models.export import diffusers_metadata, diffusers_tensors, parameter_values
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec, kronecker_factors
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.workflows.adapter import adapter_of
from dreambooth_resume.workflows.kind_card import loading_of_adapter
from dreambooth_resume.workflows.results import to_kohya

LAYERS = "--lora_layers to_q,to_v,ff.net.2,proj_in --conv_dim 2 --conv_alpha 1 --rank_pattern mid_block=6"
KINDS = {
    "loha": f"--lora_type loha --rank 4 --lora_alpha 2 {LAYERS}",
    "lokr of small matrices": f"--lora_type LoKr --rank 2 --lora_alpha 1 --lokr_factor 4 {LAYERS}",
    "lokr of whole matrices": f"--lora_type lokr --rank 64 --lora_alpha 16 --lokr_factor 4 {LAYERS}",
    "lokr of the usual layers": "--lora_type lokr --rank 2 --lora_alpha 4",
}


def spec_of(source: ModelSource, words: str) -> LoraSpec:
    typed = f"--pretrained_model_name_or_path x --instance_data_dir x --instance_prompt x {words}"
    return adapter_of(resolve(parse_train(typed.split()), recorded=None), family_named("sdxl"), source)


def denoiser_of(source: ModelSource, dtype: torch.dtype = torch.float32) -> SdxlDenoiser:
    denoiser = family_named("sdxl").load_denoiser(
        source, device=torch.device("cpu"), weight_dtype=dtype, gradient_checkpointing=False
    )
    assert isinstance(denoiser, SdxlDenoiser)
    return denoiser


def normal_draw(number: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape, dtype=np.float32)


def trained(source: ModelSource, spec: LoraSpec) -> tuple[SdxlDenoiser, dict[str, torch.nn.Parameter]]:
    denoiser = denoiser_of(source)
    parameters = add_lora(denoiser, spec, normal_draw=normal_draw)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    denoiser.module.eval()
    return denoiser, parameters


def file_of(parameters: dict[str, torch.nn.Parameter], spec: LoraSpec) -> bytes:
    """The file as a checkpoint has it."""
    header = diffusers_metadata(spec, target_modules={"unet": ("to_k", "to_out.0", "to_q", "to_v")})
    return b"".join(serialise(diffusers_tensors(parameters, prefix="unet"), header).parts)


def output_of(unet: Any) -> torch.Tensor:
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


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_a_fresh_one_changes_nothing_and_is_drawn_from_the_caller_alone(tiny_source: ModelSource, words: str) -> None:
    spec = spec_of(tiny_source, words)
    denoiser = denoiser_of(tiny_source)
    before = output_of(denoiser.module.eval())
    torch.manual_seed(1)  # peft draws before we set our own values: none of that may stay
    parameters = add_lora(denoiser, spec, normal_draw=normal_draw)
    torch.testing.assert_close(output_of(denoiser.module), before, rtol=0, atol=0)
    torch.manual_seed(2)
    half = add_lora(denoiser_of(tiny_source, torch.bfloat16), spec, normal_draw=normal_draw)
    assert list(parameters) == list(half)
    assert all(torch.equal(parameters[name], half[name]) for name in parameters)
    assert {one.dtype for one in half.values()} == {torch.float32}
    counted = family_named("sdxl").adapter_parameters(tiny_source, spec)
    assert counted == sum(one.numel() for one in parameters.values())


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_every_matrix_learns_once_the_first_has_left_zero(tiny_source: ModelSource, words: str) -> None:
    denoiser, parameters = trained(tiny_source, spec_of(tiny_source, words))
    denoiser.module.train()
    output = denoiser.predict(
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([500]),
        prompt_embeds_BSD=torch.ones(1, 77, 64),
        pooled_prompt_embeds_BP=torch.ones(1, 32),
        time_ids_B6=torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
    )
    output.square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in parameters.values())


def kohyas_change(tensors: Mapping[str, torch.Tensor], key: str, shape: torch.Size) -> torch.Tensor:
    """What a layer's weight is changed by, as ComfyUI and AUTOMATIC1111 compute it from LyCORIS' names."""
    layer = {name.removeprefix(f"{key}."): one for name, one in tensors.items() if name.startswith(f"{key}.")}
    if "hada_w1_a" in layer:
        change = (layer["hada_w1_a"] @ layer["hada_w1_b"]) * (layer["hada_w2_a"] @ layer["hada_w2_b"])
        return (change * layer["alpha"] / layer["hada_w1_b"].shape[0]).reshape(shape)
    small, strength = layer["lokr_w1"], torch.tensor(1.0)
    if "lokr_w2" in layer:
        large = layer["lokr_w2"]
    else:
        large = layer["lokr_w2_a"] @ layer["lokr_w2_b"]
        strength = layer["alpha"] / layer["lokr_w2_b"].shape[0]
    if large.ndim == 4:
        small = small[:, :, None, None]
    return (torch.kron(small, large.contiguous()) * strength).reshape(shape)


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_kohyas_format_says_what_was_trained(tiny_source: ModelSource, words: str) -> None:
    spec = spec_of(tiny_source, words)
    denoiser, parameters = trained(tiny_source, spec)
    kohya = b"".join(to_kohya(file_of(parameters, spec)).parts)
    tensors, header = deserialise(kohya), metadata_of(kohya)
    layers = {name.rpartition(".")[0] for name in parameters}
    assert {name.partition(".")[0] for name in tensors} == {f"lora_unet_{one.replace('.', '_')}" for one in layers}
    for name in layers:
        layer: Any = denoiser.module.get_submodule(name)
        expected = layer.get_delta_weight("default").detach()
        found = kohyas_change(tensors, f"lora_unet_{name.replace('.', '_')}", expected.shape)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert header["ss_network_module"] == "lycoris.kohya"
    assert json.loads(header["ss_network_args"])["algo"] == spec.kind


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS)
def test_the_model_cards_lines_put_it_on_a_pipeline_of_diffusers(
    tiny_source: ModelSource, tiny_folder: Path, tmp_path: Path, words: str
) -> None:
    spec = spec_of(tiny_source, words)
    denoiser, parameters = trained(tiny_source, spec)
    body = file_of(parameters, spec)
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(body)
    assert parameter_values(deserialise(body), prefix="unet").keys() == parameters.keys()
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline

        pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_folder)
    before = output_of(pipeline.unet)
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        pipeline.load_lora_weights(tmp_path)
    exec(loading_of_adapter({"lora_type": spec.kind}, str(tmp_path)), {"pipeline": pipeline})
    found = output_of(pipeline.unet)
    torch.testing.assert_close(found, output_of(denoiser.module), rtol=1e-5, atol=1e-5)
    assert (found - before).abs().max() > 1e-2


@pytest.mark.parametrize("factor", [-1, 1, 4, 5, 8, 16])
def test_widths_are_split_as_peft_and_lycoris_split_them(factor: int) -> None:
    from peft.tuners.lokr.layer import factorization

    for size in (1, 2, 7, 12, 64, 127, 320, 640, 1280, 2048, 5120):
        assert kronecker_factors(size, factor) == factorization(size, factor)
