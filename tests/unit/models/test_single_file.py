"""A base model in one file: its parts are those of a folder, and other files are named for what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.base import BasePrecision
from dreambooth_resume.models.digests import digest_files
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.lora_layers import LayerChoice, LoraSpec
from dreambooth_resume.models.sdxl.family import SdxlFamily
from dreambooth_resume.models.source import ModelSource, resolve_source
from tests.fakes.single_file import WIDTHS, build_uneven_sdxl, write_single_file

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("uneven") / "model"
    build_uneven_sdxl(made)
    return made


@pytest.fixture(scope="module")
def configs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder without a single weight."""
    copy = tmp_path_factory.mktemp("configs") / "model"
    return Path(shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.fixture(scope="module")
def tensors(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return write_single_file(folder, tmp_path_factory.mktemp("tensors") / "model.safetensors")


@pytest.fixture(scope="module")
def from_folder(folder: Path) -> ModelSource:
    return resolve_source(str(folder), hub=HuggingFaceHub())


@pytest.fixture(scope="module")
def from_file(folder: Path, configs: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    path = tmp_path_factory.mktemp("file") / "fine-tune.safetensors"
    write_single_file(folder, path)
    return resolve_source(str(path), base_config=str(configs), hub=HuggingFaceHub())


def unet(source: ModelSource, precision: BasePrecision | None = None) -> torch.nn.Module:
    loaded = SdxlFamily().load_denoiser(
        source,
        device=CPU,
        weight_dtype=torch.bfloat16,
        gradient_checkpointing=False,
        base_precision=precision,
    )
    return loaded.module


def same_state(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def test_every_part_is_the_folders(from_folder: ModelSource, from_file: ModelSource) -> None:
    family = SdxlFamily()
    assert family.check(from_file) == family.check(from_folder)
    assert same_state(unet(from_file), unet(from_folder))
    ours, theirs = (family.encoders(source, device=CPU) for source in (from_file, from_folder))
    (embeds, pooled), expected = (
        ours.encode_prompt("a photo of sks robot"),
        theirs.encode_prompt("a photo of sks robot"),
    )
    assert (embeds.shape[1], pooled.shape) == (sum(WIDTHS), (WIDTHS[1],))
    assert np.array_equal(embeds, expected[0])
    assert np.array_equal(pooled, expected[1])
    pixels = torch.linspace(-1, 1, 3 * 32 * 32).reshape(3, 32, 32)
    assert all(
        torch.equal(one, two) for one, two in zip(ours.encode_pixels(pixels), theirs.encode_pixels(pixels), strict=True)
    )
    latents = torch.linspace(-2, 2, 4 * 4 * 4).reshape(4, 4, 4)
    assert np.array_equal(ours.decode_latents(latents), theirs.decode_latents(latents))


def test_trained_text_encoders_and_a_base_in_fewer_bits(from_folder: ModelSource, from_file: ModelSource) -> None:
    assert same_state(unet(from_file, "fp8"), unet(from_folder, "fp8"))
    pairs = [
        SdxlFamily()
        .load_text_encoders(source, device=CPU, weight_dtype=torch.bfloat16, gradient_checkpointing=False)
        .models
        for source in (from_file, from_folder)
    ]
    for part in ("text_encoder", "text_encoder_2"):
        assert same_state(pairs[0][part], pairs[1][part])


def test_the_header_alone_tells_the_size_of_an_adapter(from_folder: ModelSource, from_file: ModelSource) -> None:
    family, choice = SdxlFamily(), LayerChoice(layers=("to_q", "ff.net.2"), conv_rank=2)
    sizes = [family.adapter_sizes(source, choice, rank=4, alpha=None) for source in (from_file, from_folder)]
    assert sizes[0] == sizes[1]
    spec = LoraSpec(rank=4, alpha=4, dropout=0.0)
    counts = [family.adapter_parameters(source, spec, text_encoders=True) for source in (from_file, from_folder)]
    assert counts[0] == counts[1] > 0


def test_the_file_is_pinned_wherever_it_lies_and_read_once(from_file: ModelSource, tmp_path: Path) -> None:
    assert from_file.single_file is not None
    moved = Path(shutil.copy(from_file.single_file, tmp_path / "elsewhere.safetensors"))
    again = resolve_source(str(moved), base_config=str(from_file.folder), hub=HuggingFaceHub())
    before, after = (digest_files(source.files, cache_file=None) for source in (from_file, again))
    assert before == after
    weights = {name: digest for name, digest in before.files.items() if name.endswith(".safetensors")}
    assert len(weights) == 4
    assert len(set(weights.values())) == 1
    assert from_file.size_bytes < 2 * moved.stat().st_size
    assert SdxlFamily().latents_key(before) != SdxlFamily().prompt_key(before)


def test_the_vae_may_come_from_elsewhere(
    tensors: dict[str, torch.Tensor], folder: Path, configs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "no-vae.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("first_stage")}, path)
    with pytest.raises(BadInput, match="no VAE"):
        resolve_source(str(path), base_config=str(configs), hub=HuggingFaceHub())
    source = resolve_source(str(path), base_config=str(configs), vae_name=str(folder / "vae"), hub=HuggingFaceHub())
    assert source.vae_folder == folder / "vae"
    assert SdxlFamily().encoders(source, device=CPU).decode_latents(torch.zeros(4, 4, 4)).shape == (32, 32, 3)


OTHERS = {
    "Stable Diffusion 1": ["cond_stage_model.transformer.x", "model.diffusion_model.x", "first_stage_model.x"],
    "a LoRA": ["lora_unet_down_blocks_1.lora_down.weight"],
    "a LoRA  ": ["unet.down_blocks.1.attn1.processor.to_q_lora.down.weight", "unet.x.lora.up.weight"],
    "a LoRA ": ["unet.down_blocks.1.attn1.to_q.lora_A.weight"],
    "refiner": ["conditioner.embedders.0.model.ln_final.weight", "model.diffusion_model.x"],
    "a UNet without": ["model.diffusion_model.input_blocks.0.0.weight"],
    "one part of a Diffusers model": ["down_blocks.0.resnets.0.conv1.weight"],
    "such as Flux": ["double_blocks.0.img_attn.proj.weight"],
    "something else": ["x"],
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_files_are_refused_with_what_they_are(what: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(1) for name in OTHERS[what]}, path)
    with pytest.raises(BadInput, match=what.strip()) as caught:
        resolve_source(str(path), hub=HuggingFaceHub())
    assert str(path) in str(caught.value.where)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("unet", {"cross_attention_dim": 64}, "numbers of a prompt's token"),
        ("unet", {"projection_class_embeddings_input_dim": 80}, "size and crop numbers"),
        ("unet", {"in_channels": 9}, "4 latent channels"),
    ],
)
def test_configurations_of_another_model_are_refused_before_loading(
    name: str, changed: dict[str, Any], words: str, from_file: ModelSource, configs: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(configs, tmp_path / "configs"))
    path = copy / name / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    source = resolve_source(str(from_file.single_file), base_config=str(copy), hub=HuggingFaceHub())
    with pytest.raises(BadInput, match=words) as caught:
        SdxlFamily().check(source)
    assert "--base_config" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("mark", "words"), [("v_pred", "predicts v"), ("edm_mean", "EDM"), ("x.scale_weight", "8-bit")]
)
def test_marks_of_the_trainers_are_heeded(
    mark: str, words: str, tensors: dict[str, torch.Tensor], configs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "marked.safetensors"
    save_file({**tensors, mark: torch.zeros(1)}, path)
    with pytest.raises(BadInput, match=words):
        SdxlFamily().check(resolve_source(str(path), base_config=str(configs), hub=HuggingFaceHub()))


def test_tensors_that_are_missing_are_named(tensors: dict[str, torch.Tensor], configs: Path, tmp_path: Path) -> None:
    path = tmp_path / "torn.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if "middle_block.1.proj_in.bias" not in name}, path)
    source = resolve_source(str(path), base_config=str(configs), hub=HuggingFaceHub())
    with pytest.raises(BadInput, match=r"1 tensors of the file's unet .*mid_block.attentions.0.proj_in.bias"):
        unet(source)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("missing.safetensors", {}, "there is no file"),
        ("old.ckpt", {}, "can run code"),
        ("tiny", {"base_config": "x"}, "leave it out"),
        ("model.safetensors", {"variant": "fp16"}, "no variants"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    name: str, options: dict[str, str], words: str, tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02.")
    (tmp_path / "model.safetensors").write_bytes(b"")
    chosen = folder if name == "tiny" else tmp_path / name
    with pytest.raises(BadInput) as caught:
        resolve_source(str(chosen), **options, hub=HuggingFaceHub())  # type: ignore[arg-type]
    assert words in str(caught.value) + str(caught.value.fix)
