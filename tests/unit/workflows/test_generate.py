"""`dbr generate`: pictures with any checkpoint beside the base model's, from the same noise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth_resume.checkpoint.tensors import deserialise, metadata_of
from dreambooth_resume.cli.main import main
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.runs.samples import read_samples
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.training.picture_spec import PictureSpec
from tests.fakes.adapter_run import AdapterRun

PROMPT = "a photo of sks robot"


@pytest.fixture(scope="module")
def home(tiny_source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate") / "dog"
    run = AdapterRun(tiny_source, LoraSpec(rank=4, alpha=8))
    data: dict[str, Any] = {"instance_data_dir": "pictures", "train_text_encoder": True, "lora_alpha": 8}
    run.write(LocalStorage(folder), steps=(2, 4), **data)
    return folder


def generate(home: Path, out: Path, *words: str) -> list[dict[str, Any]]:
    wanted = ["--prompt", PROMPT, "--num-images", "2", "--steps", "2", "--guidance-scale", "3", "--out", str(out)]
    assert main(["generate", str(home), *wanted, *words]) == 0
    listed: list[dict[str, Any]] = json.loads((out / "pictures.json").read_text())["pictures"]
    return listed


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_each_checkpoint_beside_the_base_model_from_the_same_noise(
    home: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    before = LocalStorage(home).list()
    out = tmp_path / "out"
    made = generate(home, out, "--step", "2", "--step", "latest", "--negative-prompt", "blue")
    names = [f"{row}-{number}.png" for row in ("base", "checkpoint-2", "checkpoint-4") for number in (0, 1)]
    assert [one["file"] for one in made] == names
    assert [one["checkpoint"] for one in made][::2] == [None, "checkpoint-2", "checkpoint-4"]
    assert (made[1]["seed"], made[1]["number"], made[1]["negative_prompt"]) == (7, 1, "blue")
    distinct = {pixels(out / name).tobytes() for name in names}
    assert len(distinct) == len(names)
    with Image.open(out / "grid.png") as grid:
        assert grid.height > 3 * 256
    assert LocalStorage(home).list() == before, "the home is only read"
    # The base model's are plain Diffusers', to the rounding of a picture's values.
    with quiet_loading():
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionXLPipeline

        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_folder)
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    spec = PictureSpec(prompt=PROMPT, height=64, width=64, num_inference_steps=2, seed=7)
    noise = torch.from_numpy(spec.noise(channels=4, pixels_per_latent=8)).unsqueeze(0)

    def picture() -> np.ndarray:
        image = pipe(
            PROMPT,
            negative_prompt="blue",
            latents=noise,
            num_inference_steps=2,
            guidance_scale=3.0,
            height=64,
            width=64,
        ).images[0]
        return np.asarray(image)

    assert np.abs(picture().astype(int) - pixels(out / "base-0.png")).max() <= 1
    pipe.load_lora_weights(home / "checkpoint-4")
    assert np.abs(picture().astype(int) - pixels(out / "checkpoint-4-0.png")).max() <= 1


def test_the_base_model_alone_and_a_checkpoint_alone(home: Path, tmp_path: Path) -> None:
    assert {one["checkpoint"] for one in generate(home, tmp_path / "a", "--without-lora")} == {None}
    assert {one["checkpoint"] for one in generate(home, tmp_path / "b", "--no-beside-base")} == {"checkpoint-4"}


def test_what_cannot_be_done_is_said_before_anything_is_loaded(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    words = ["generate", str(home), "--prompt", PROMPT]
    wrong: list[tuple[list[str], str]] = [
        (["--out", str(tmp_path / "full")], "is not empty"),
        (["--out", str(tmp_path / "n"), "--step", "3"], "3 is no checkpoint"),
        (["--out", str(tmp_path / "n"), "--step", "2", "--without-lora"], "the base model has no steps"),
        (["--out", str(tmp_path / "n"), "--num-images", "400"], "more than 500 pictures"),
        (["--out", str(tmp_path / "n"), "--seed", "-1"], "not a whole number"),
        (["--out", str(tmp_path / "n"), "--width", "100"], "100 is not a multiple of 8"),
        (["--out", str(tmp_path / "m"), "--pretrained-model-name-or-path", "/none"], "there is no folder /none"),
    ]
    for more, message in wrong:
        assert main([*words, *more]) == 2, message
        assert message in capsys.readouterr().err
    assert read_samples(LocalStorage(home)) == ()


def test_a_damaged_checkpoint_paints_nothing(home: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(home, tmp_path / "copy"))
    weights = copy / "checkpoint-2" / "pytorch_lora_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert main(["generate", str(copy), "--prompt", PROMPT, "--step", "2", "--out", str(tmp_path / "out")]) == 78
    assert not list((tmp_path / "out").iterdir())


def test_a_loha_is_painted_with_beside_the_base_model(tiny_source: ModelSource, tmp_path: Path) -> None:
    run = AdapterRun(tiny_source, LoraSpec(rank=4, alpha=8, kind="loha"), with_text=False)
    home = tmp_path / "loha"
    run.write(LocalStorage(home), instance_data_dir="pictures", lora_alpha=8, lora_type="loha")
    made = generate(home, tmp_path / "out", "--num-images", "1")
    assert [one["file"] for one in made] == ["base-0.png", "checkpoint-2-0.png"]
    assert (pixels(tmp_path / "out" / "base-0.png") != pixels(tmp_path / "out" / "checkpoint-2-0.png")).any()
    assert main(["export", str(home), "--format", "kohya", "--to", str(tmp_path / "loha.safetensors")]) == 0
    exported = tmp_path / "loha.safetensors"
    names, header = deserialise(exported.read_bytes()), metadata_of(exported.read_bytes())
    assert {name.rpartition(".")[2] for name in names} == {
        "alpha",
        "hada_w1_a",
        "hada_w1_b",
        "hada_w2_a",
        "hada_w2_b",
    }
    assert (header["modelspec.tags"], header["ss_network_module"]) == ("dreambooth, loha", "lycoris.kohya")
