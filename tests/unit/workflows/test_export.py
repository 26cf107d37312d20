"""`dbr export`: both formats load in plain Diffusers and compute what was trained; the header says what it is."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from dreambooth_resume.checkpoint.tensors import content_sha256, deserialise, metadata_of
from dreambooth_resume.cli.main import main
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.export_header import export_header
from tests.fakes.adapter_run import AdapterRun

PROMPT = "a photo of sks robot"


@pytest.fixture(scope="module")
def run(tiny_source: ModelSource) -> AdapterRun:
    return AdapterRun(tiny_source, LoraSpec(rank=4, alpha=16))


@pytest.fixture
def home(run: AdapterRun, tmp_path: Path) -> Path:
    run.write(LocalStorage(tmp_path / "dog"), output_kohya_format=True)
    return tmp_path / "dog"


@pytest.fixture
def pipeline(tiny_folder: Path) -> Any:
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline

        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def export(home: Path, to: Path, *words: str) -> Path:
    assert main(["export", str(home), "--to", str(to), *words]) == 0
    return to


def outputs(unet: Any, encode: Any) -> torch.Tensor:
    """What the denoiser and both text encoders compute."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        predicted = unet(
            torch.randn(1, 4, 8, 8, generator=generator),
            torch.tensor([500]),
            torch.randn(1, 77, 64, generator=generator),
            added_cond_kwargs={
                "text_embeds": torch.randn(1, 32, generator=generator),
                "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
            },
            return_dict=False,
        )[0]
        embeds, pooled = encode(PROMPT)
    return torch.cat([predicted.flatten(), embeds.flatten(), pooled.flatten()])


def of_pipeline(pipe: Any) -> torch.Tensor:
    def encode(prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        embeds, _, pooled, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
        return embeds, pooled

    return outputs(pipe.unet, encode)


def of_run(run: AdapterRun) -> torch.Tensor:
    return outputs(run.denoiser.module, lambda prompt: run.encoders.encode(run.encoders.tokenize([prompt])))


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_it_loads_in_plain_diffusers_and_computes_what_was_trained(
    layout: str, run: AdapterRun, home: Path, pipeline: Any, tmp_path: Path
) -> None:
    without = of_pipeline(pipeline)
    pipeline.load_lora_weights(export(home, tmp_path / "dog.safetensors", "--format", layout))
    torch.testing.assert_close(of_pipeline(pipeline), of_run(run), rtol=1e-5, atol=1e-5)
    assert (of_run(run) - without).abs().max() > 0.1


@pytest.mark.parametrize(("dtype", "wanted"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_in_half_precision_each_weight_is_rounded_once_and_alpha_is_not(
    dtype: str, wanted: torch.dtype, home: Path, tmp_path: Path
) -> None:
    whole = deserialise(export(home, tmp_path / "whole.safetensors", "--format", "kohya").read_bytes())
    half = deserialise(export(home, tmp_path / "half.safetensors", "--format", "kohya", "--dtype", dtype).read_bytes())
    assert half.keys() == whole.keys()
    for name, tensor in half.items():
        assert torch.equal(tensor, whole[name] if name.endswith(".alpha") else whole[name].to(wanted))
    assert {tensor.item() for name, tensor in half.items() if name.endswith(".alpha")} == {16.0}


def test_dora_goes_to_diffusers_whole(tiny_source: ModelSource, pipeline: Any, tmp_path: Path) -> None:
    run = AdapterRun(tiny_source, LoraSpec(rank=4, alpha=2.5, dora=True))
    run.write(LocalStorage(tmp_path / "dog"), use_dora=True)
    pipeline.load_lora_weights(export(tmp_path / "dog", tmp_path / "d.safetensors", "--format", "diffusers"))
    torch.testing.assert_close(of_pipeline(pipeline), of_run(run), rtol=1e-4, atol=1e-4)


def test_the_header_names_the_weights_and_how_they_were_made(home: Path, tmp_path: Path) -> None:
    kohya = export(home, tmp_path / "k.safetensors", "--format", "kohya", "--title", "My dog")
    with safe_open(kohya, framework="pt") as file:  # the library reads it, too
        header = file.metadata()
    body = kohya.read_bytes()
    after = body[8 + struct.unpack_from("<Q", body)[0] :]
    digest = hashlib.sha256(after).hexdigest()
    expected = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": "My dog",
        "modelspec.resolution": "64x64",
        "modelspec.trigger_phrase": PROMPT,
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_model_hash": digest,
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "16.0",
        "ss_output_name": "My dog",
        "ss_sd_model_name": "tiny-sdxl",
        "ss_seed": "7",
        "ss_steps": "2",
    }
    assert expected.items() <= header.items()
    assert str(tmp_path) not in json.dumps(header), "nothing of the machine that trained"
    diffusers = metadata_of(export(home, tmp_path / "d.safetensors", "--format", "diffusers").read_bytes())
    assert diffusers["modelspec.implementation"] == "diffusers"
    assert diffusers["modelspec.title"] == "dog"
    assert json.loads(diffusers["lora_adapter_metadata"])["unet.lora_alpha"] == 16


def test_the_same_weights_are_the_same_bytes_and_any_checkpoint_will_do(
    tiny_source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = AdapterRun(tiny_source, LoraSpec(rank=4, alpha=4), with_text=False)
    run.write(LocalStorage(tmp_path / "dog"), steps=(2, 4), finish=False)
    monkeypatch.chdir(tmp_path)
    words = ["export", "dog", "--format", "kohya"]
    for step in ("2", "checkpoint-4", "latest"):
        assert main([*words, "--step", step]) == 0
        assert main([*words, "--step", step]) == 0, "the same file is there already"
    found = {path.name: content_sha256(deserialise(path.read_bytes())) for path in tmp_path.glob("*.safetensors")}
    assert sorted(found) == ["dog-2-kohya.safetensors", "dog-4-kohya.safetensors"]
    assert len(set(found.values())) == 2
    assert main([*words, "--to", "dog-2-kohya.safetensors"]) == 2, "another file of that name stays"
    assert main([*words, "--step", "final"]) == 2
    assert main([*words, "--step", "3"]) == 2


def test_a_damaged_checkpoint_is_no_export(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = home / "checkpoint-2" / "pytorch_lora_weights.safetensors"
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(body)
    assert main(["export", str(home), "--format", "kohya", "--to", str(tmp_path / "k.safetensors")]) == 78
    assert "SHA-256 differs" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.safetensors"))


def test_what_a_dtype_cannot_hold_is_refused(tiny_source: ModelSource, tmp_path: Path) -> None:
    run = AdapterRun(tiny_source, LoraSpec(rank=4, alpha=4), with_text=False)
    with torch.no_grad():
        next(iter(run.parameters.values())).add_(1e5)
    run.write(LocalStorage(tmp_path / "dog"))
    words = ["export", str(tmp_path / "dog"), "--format", "diffusers", "--to", str(tmp_path / "d.safetensors")]
    assert main([*words, "--dtype", "fp16"]) == 2
    assert main([*words, "--dtype", "bf16"]) == 0


def test_the_layer_that_is_read_is_counted_as_other_programs_do() -> None:
    family_header = {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    headers = [
        export_header(family_header, {"clip_skip": skipped}, layout="kohya", title="dog", step=1, prompts=())
        for skipped in (None, 0, 1)
    ]
    # SDXL's own, the second to last, goes without saying.
    assert [one.get("ss_clip_skip") for one in headers] == [None, None, "3"]
    assert [one.get("modelspec.encoder_layer") for one in headers] == [None, None, "3"]
