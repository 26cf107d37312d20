"""Which layers get a LoRA and of what rank, and that other programs read all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreambooth_resume.checkpoint.tensors import deserialise, metadata_of, serialise
from dreambooth_resume.config.load import parse_train, record, resolve
from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.export import diffusers_metadata, diffusers_tensors
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LayerSize, LoraSpec
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.sdxl.denoiser import SdxlDenoiser
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.workflows.adapter import adapter_of
from dreambooth_resume.workflows.results import to_kohya

USUAL = ("to_k", "to_out.0", "to_q", "to_v")
MIXED = (
    "--rank 4 --lora_alpha 2 --conv_dim 3 --conv_alpha 1.5 "
    "--lora_layers to_q,to_v,ff.net.0.proj,ff.net.2,proj_in,proj_out "
    "--rank_pattern mid_block=6,up_blocks.0.attentions.1=2,attn2.to_v=5 --alpha_pattern ff=7"
)


def spec_of(source: ModelSource, words: str) -> LoraSpec:
    typed = f"--pretrained_model_name_or_path x --instance_data_dir x --instance_prompt x {words}"
    return adapter_of(resolve(parse_train(typed.split()), recorded=None), family_named("sdxl"), source)


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
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    denoiser.module.eval()
    return denoiser, parameters


def lora_file(parameters: dict[str, torch.nn.Parameter], spec: LoraSpec) -> bytes:
    header = diffusers_metadata(spec, target_modules={"unet": USUAL})
    return b"".join(serialise(diffusers_tensors(parameters, prefix="unet"), header).parts)


@pytest.fixture(scope="module")
def pipeline(tiny_folder: Path) -> Any:
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline

        return StableDiffusionXLPipeline.from_pretrained(tiny_folder)


@pytest.fixture
def load(pipeline: Any, tmp_path: Path) -> Iterator[Any]:
    """The tiny pipeline's UNet with a LoRA file on it."""

    def loaded(weights: bytes) -> torch.nn.Module:
        pipeline.unload_lora_weights()
        path = tmp_path / "lora.safetensors"
        path.write_bytes(weights)
        pipeline.load_lora_weights(path)
        unet: torch.nn.Module = pipeline.unet.eval()
        return unet

    yield loaded
    pipeline.unload_lora_weights()


def output(unet: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        predicted: torch.Tensor = unet(
            torch.randn(1, 4, 8, 8, generator=generator),
            torch.tensor([500]),
            torch.randn(1, 77, 64, generator=generator),
            added_cond_kwargs={
                "text_embeds": torch.randn(1, 32, generator=generator),
                "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
            },
            return_dict=False,
        )[0]
    return predicted


def test_nothing_said_is_the_usual_adapter_with_the_usual_header(tiny_source: ModelSource) -> None:
    spec = spec_of(tiny_source, "--rank 4")
    assert spec == LoraSpec(rank=4, alpha=4)
    config = json.loads(diffusers_metadata(spec, target_modules={"unet": USUAL})["lora_adapter_metadata"])
    assert config == {"unet.r": 4, "unet.lora_alpha": 4, "unet.target_modules": list(USUAL)}


@pytest.mark.parametrize(
    "words",
    [
        MIXED,
        "--conv_dim 2 --rank 4",
        "--lora_layers all-linear --rank 3",
        "--use_blora --rank 4 --lora_alpha 8",
        "--rank 2 --use_dora --conv_dim 3 --rank_pattern mid_block=0",
    ],
    ids=["mixed", "conv", "all-linear", "blora", "dora"],
)
def test_both_formats_give_plain_diffusers_what_was_trained(words: str, tiny_source: ModelSource, load: Any) -> None:
    spec = spec_of(tiny_source, words)
    denoiser, parameters = trained(tiny_source, spec)
    counted = sum(parameter.numel() for parameter in parameters.values())
    assert family_named("sdxl").adapter_parameters(tiny_source, spec) == counted
    expected = output(denoiser.module)
    weights = lora_file(parameters, spec)
    torch.testing.assert_close(output(load(weights)), expected, rtol=1e-4, atol=1e-4)
    if not spec.dora:  # Diffusers drops kohya's magnitudes
        kohya = b"".join(to_kohya(weights).parts)
        torch.testing.assert_close(output(load(kohya)), expected, rtol=1e-4, atol=1e-4)
    plain = family_named("sdxl").load_denoiser(
        tiny_source, device=torch.device("cpu"), weight_dtype=torch.float32, gradient_checkpointing=False
    )
    assert (output(plain.module.eval()) - expected).abs().max() > 1e-2


def test_kohyas_file_has_each_layers_own_alpha_and_the_convolutions_rank(tiny_source: ModelSource) -> None:
    spec = spec_of(tiny_source, MIXED)
    _, parameters = trained(tiny_source, spec)
    converted = b"".join(to_kohya(lora_file(parameters, spec)).parts)
    tensors, header = deserialise(converted), metadata_of(converted)
    for layer, size in spec.sizes["unet"].items():
        key = f"lora_unet_{layer.replace('.', '_')}"
        assert (len(tensors[f"{key}.lora_down.weight"]), tensors[f"{key}.alpha"].item()) == (size.rank, size.alpha)
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("4", "2.0")
    assert json.loads(header["ss_network_args"]) == {"conv_dim": "3", "conv_alpha": "1.5"}


def test_sizes_of_each_kind_of_layer(tiny_source: ModelSource) -> None:
    sizes = spec_of(tiny_source, MIXED).sizes["unet"]
    block = "down_blocks.1.attentions.0"
    assert sizes[f"{block}.transformer_blocks.0.attn1.to_q"] == LayerSize(rank=4, alpha=2)
    assert sizes[f"{block}.transformer_blocks.0.attn2.to_v"] == LayerSize(rank=5, alpha=2)
    assert sizes[f"{block}.transformer_blocks.0.ff.net.2"] == LayerSize(rank=4, alpha=7)
    assert sizes["mid_block.attentions.0.proj_in"] == LayerSize(rank=6, alpha=2)
    assert sizes["down_blocks.0.resnets.0.conv1"] == LayerSize(rank=3, alpha=1.5)
    assert sizes["down_blocks.0.downsamplers.0.conv"] == LayerSize(rank=3, alpha=1.5)
    # As in kohya's scripts: 1x1 convolutions and linear layers beside them have the linear rank.
    assert sizes["down_blocks.1.resnets.0.conv_shortcut"] == LayerSize(rank=4, alpha=2)
    assert sizes["down_blocks.1.resnets.0.time_emb_proj"] == LayerSize(rank=4, alpha=2)
    # Three components win over two.
    assert sizes["up_blocks.0.attentions.1.proj_in"].rank == 2
    assert sizes["up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v"].rank == 2
    assert not [name for name in sizes if "to_k" in name or name.startswith(("conv_in", "time_embedding"))]


def test_without_an_alpha_every_layer_has_its_own_rank_also_on_a_resume(tiny_source: ModelSource) -> None:
    typed = "--pretrained_model_name_or_path x --instance_data_dir x --instance_prompt x --rank 4"
    first = resolve(parse_train([*typed.split(), "--rank_pattern", "mid_block=16"]), recorded=None)
    again = resolve(parse_train([]), recorded=record(first))
    family = family_named("sdxl")
    sizes = adapter_of(first, family, tiny_source).sizes["unet"]
    assert sizes["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"] == LayerSize(rank=16, alpha=16)
    assert sizes["up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"] == LayerSize(rank=4, alpha=4)
    assert adapter_of(again, family, tiny_source) == adapter_of(first, family, tiny_source)


def test_blora_is_its_two_blocks_and_wins_over_other_blocks(tiny_source: ModelSource) -> None:
    words = "--lora_unet_blocks unet.up_blocks.0.attentions.0,up_blocks.0.attentions.1"
    two = spec_of(tiny_source, words)
    assert {name.split(".transformer")[0] for name in two.sizes["unet"]} == {
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    }
    assert spec_of(tiny_source, "--use_blora") == two
    assert spec_of(tiny_source, "--use_blora --lora_unet_blocks mid_block") == two


@pytest.mark.parametrize(
    ("words", "where", "said"),
    [
        ("--lora_layers to_q,to_w", "lora_layers", "no layer to_w.*ff.net.0.proj.*to_q.*all-linear"),
        ("--lora_unet_blocks down_blocks.7", "lora_unet_blocks", "no block down_blocks.7.*down_blocks"),
        ("--lora_unet_blocks down_blocks.0", "lora_unet_blocks", "no chosen layer lies in down_blocks.0"),
        ("--rank_pattern middle=8", "rank_pattern", "lies in middle.*up_blocks"),
        ("--alpha_pattern resnets=8", "alpha_pattern", "lies in resnets"),
        ("--lora_unet_blocks mid_block --rank_pattern mid_block=0", "rank_pattern", "leaves no layer"),
    ],
)
def test_what_the_model_lacks_is_refused_with_what_it_has(
    words: str, where: str, said: str, tiny_source: ModelSource
) -> None:
    with pytest.raises(BadInput) as error:
        spec_of(tiny_source, words)
    assert error.value.where == where
    assert re.search(said, f"{error.value.what} {error.value.fix}"), error.value


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--rank_pattern mid_block", "PART=NUMBER"),
        ("--rank_pattern mid_block=half", "a number such as 8"),
        ("--rank_pattern mid_block=-1", "a number such as 8"),
        ("--alpha_pattern mid_block=0", "a number such as 8"),
        ("--lora_layers to_q,,to_k", "no name"),
        ("--lora_unet_blocks up_blocks/0", "no name"),
    ],
)
def test_what_is_no_name_or_no_number_is_refused_at_once(words: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parse_train(words.split())


def test_the_other_name_is_the_same_option() -> None:
    assert parse_train(["--lora_target_modules", "to_q, to_k"]).values == {"lora_layers": "to_q,to_k"}
