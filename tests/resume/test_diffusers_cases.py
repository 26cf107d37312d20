"""The SDXL cases of Diffusers' own test file for its script, with `dbr train` in its place.

Their source: examples/dreambooth/test_dreambooth_lora.py, class DreamBoothLoRASDXL. The options are those of each case;
the model and the pictures are the tiny ones of this suite, because nothing is downloaded in a test. One thing differs,
on purpose: a run's last step is always a checkpoint here, also where the interval doesn't fall on it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.resume.harness import Bench

CAPTIONS = "dataset_name"
PICTURES = "instance_data_dir"


@pytest.fixture
def captioned(bench: Bench, tmp_path: Path) -> Path:
    """A data set of pictures with a `text` column, as hf-internal-testing/dummy_image_text_data is one."""
    folder = tmp_path / "captioned"
    folder.mkdir()
    lines = []
    for number, picture in enumerate(sorted(bench.pictures.glob("*.png"))[:3]):
        (folder / picture.name).write_bytes(picture.read_bytes())
        lines.append(json.dumps({"file_name": picture.name, "text": f"robot number {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def train(bench: Bench, home: Path, words: str, data: tuple[str, Path]) -> None:
    """Run the case's options, which are spelled as in that file."""
    flag, folder = data
    common = (
        f"--pretrained_model_name_or_path {bench.model} --{flag} {folder} --instance_prompt photo --resolution 64 "
        f"--gradient_accumulation_steps 1 --learning_rate 5.0e-04 --scale_lr --lr_scheduler constant "
        f"--lr_warmup_steps 0 --output_dir {home} {words}"
    )
    process = bench.command(home, ["train", *common.split()])
    assert process.wait() == 0, process.output()


def weight_names(home: Path) -> list[str]:
    with safe_open(home / "pytorch_lora_weights.safetensors", "pt") as weights:
        return list(weights.keys())


def checkpoints(home: Path) -> set[str]:
    return {path.name for path in home.iterdir() if "checkpoint" in path.name}


def makes_a_picture(bench: Bench, home: Path, *, steps: int) -> None:
    words = [str(bench.model), str(home), str(steps)]
    process = bench.command(home, words, program="tests.resume.plain_diffusers:make_picture")
    assert process.wait() == 0, process.output()


def test_lora_sdxl(bench: Bench, home: Path) -> None:
    train(bench, home, "--train_batch_size 1 --max_train_steps 2", (PICTURES, bench.pictures))
    names = weight_names(home)
    assert names
    assert all("lora" in name and name.startswith("unet") for name in names)


def test_lora_sdxl_with_text_encoder(bench: Bench, home: Path) -> None:
    words = "--train_batch_size 1 --max_train_steps 2 --train_text_encoder"
    train(bench, home, words, (PICTURES, bench.pictures))
    names = weight_names(home)
    assert {name.partition(".")[0] for name in names} == {"unet", "text_encoder", "text_encoder_2"}
    assert all("lora" in name for name in names)


@pytest.mark.parametrize("encoders", ["", "--train_text_encoder"])
def test_lora_sdxl_custom_captions(encoders: str, bench: Bench, home: Path, captioned: Path) -> None:
    words = f"--train_batch_size 1 --max_train_steps 2 --caption_column text {encoders}"
    train(bench, home, words, (CAPTIONS, captioned))
    assert weight_names(home)


def test_lora_sdxl_checkpoints_total_limit(bench: Bench, home: Path) -> None:
    words = "--train_batch_size 1 --max_train_steps 6 --checkpointing_steps=2 --checkpoints_total_limit=2"
    train(bench, home, words, (PICTURES, bench.pictures))
    makes_a_picture(bench, home, steps=1)
    assert checkpoints(home) == {"checkpoint-4", "checkpoint-6"}


def test_lora_sdxl_text_encoder_checkpoints_total_limit(bench: Bench, home: Path) -> None:
    words = (
        "--train_batch_size 1 --max_train_steps 7 --checkpointing_steps=2 --checkpoints_total_limit=2 "
        "--train_text_encoder"
    )
    train(bench, home, words, (PICTURES, bench.pictures))
    makes_a_picture(bench, home, steps=2)
    # That script keeps 4 and 6, and its step 7 in the result alone: from there it could never be gone on with.
    assert checkpoints(home) == {"checkpoint-6", "checkpoint-7"}


def test_lora_sdxl_snr_gamma_with_prior_preservation(bench: Bench, home: Path) -> None:
    words = (
        "--train_batch_size 2 --max_train_steps 2 --snr_gamma 5.0 --with_prior_preservation "
        f"--class_data_dir {bench.pictures} --class_prompt photo --num_class_images 4"
    )
    train(bench, home, words, (PICTURES, bench.pictures))
    assert weight_names(home)
