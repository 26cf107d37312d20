"""A base model in one file: killed, moved and resumed, every byte is that of a run from the same model in a folder."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, committed_steps, log_of, result_digests, sha256
from tests.resume.s3_home import S3Home

OPTIONS: dict[str, object] = {"train_text_encoder": True}


@pytest.fixture(scope="module")
def folder(bench: Bench) -> Path:
    """The model as a folder; beside it lies the same one as `uneven.safetensors`."""
    made = bench.folder / "uneven"
    # In a process of its own: this one has to stay free of tensor operations.
    process = bench.command(made, [str(made)], program="tests.fakes.single_file:main")
    assert process.wait() == 0, process.output()
    return made


@pytest.fixture(scope="module")
def configs(folder: Path) -> Path:
    copy = folder.with_name("configs")
    return Path(shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors")))


def test_killed_once_ends_in_the_folders_bytes_though_the_file_was_moved(
    bench: Bench, folder: Path, configs: Path, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    expected = undisturbed(**OPTIONS, pretrained_model_name_or_path=folder)
    file, moved = tmp_path / "first.safetensors", tmp_path / "elsewhere" / "second.safetensors"
    shutil.copy(folder.with_suffix(".safetensors"), file)
    process = bench.start(home, **OPTIONS, pretrained_model_name_or_path=file, base_config=configs)
    process.wait_for(lambda: committed_steps(home) != [], "the first commit")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    moved.parent.mkdir()
    file.rename(moved)
    bench.run(home, **OPTIONS, pretrained_model_name_or_path=moved, base_config=configs)
    assert log_of(home).highest_attempt == 2
    assert result_digests(home) == expected
    pinned = json.loads((home / "run.json").read_text())["pins"]["base_model"]
    assert pinned["unet/single_file.safetensors"] == sha256(moved)
    assert "unet/config.json" in pinned
    _pictures_and_card(bench, home, moved)
    _refused_once_changed(bench, home, moved, configs)
    _the_result_is_no_base_model(bench, home)


def _pictures_and_card(bench: Bench, home: Path, file: Path) -> None:
    words = ["generate", str(home), "--prompt", "a dog", "--out", str(home.parent / "pictures"), "--steps", "1"]
    made = bench.command(home, [*words, "--pretrained_model_name_or_path", str(file)])
    assert made.wait() == 0, made.output()
    card = (home / "README.md").read_text()
    assert "StableDiffusionXLPipeline.from_single_file(base" in card
    assert f"PATH-TO/{file.name}" in card
    assert str(file.parent) not in card


def _refused_once_changed(bench: Bench, home: Path, file: Path, configs: Path) -> None:
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)
    options = {"pretrained_model_name_or_path": file, "base_config": configs, "max_train_steps": 8}
    process = bench.start(home, **OPTIONS, **options)  # type: ignore[arg-type]
    assert process.wait() == 78
    assert "is not the one that the run was begun with" in process.output()


def _the_result_is_no_base_model(bench: Bench, home: Path) -> None:
    process = bench.start(
        home.with_name("other"), pretrained_model_name_or_path=home / "pytorch_lora_weights.safetensors"
    )
    assert process.wait() == 2
    assert "the file is a LoRA" in process.output()
    assert "--network_weights" in process.output()


def test_a_base_in_a_bucket_ends_in_the_folders_bytes_on_another_machine_and_another_upload_is_refused(
    bench: Bench, undisturbed: Undisturbed, home: Path, s3_home: S3Home
) -> None:
    for path in (path for path in bench.model.rglob("*") if path.is_file()):
        s3_home.storage.write(path.relative_to(bench.model).as_posix(), [path.read_bytes()])
    base: dict[str, object] = {
        "pretrained_model_name_or_path": s3_home.uri,
        "s3_endpoint_url": s3_home.server_url,
        "cache_dir": home.with_name("first-machine"),
    }
    process = bench.start(home, **base)  # type: ignore[arg-type]
    process.wait_for(lambda: committed_steps(home) != [], "the first commit")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    base["cache_dir"] = home.with_name("second-machine")
    resumed = bench.run(home, **base)
    assert "s3_endpoint_url has no effect" not in resumed.output()
    assert result_digests(home) == undisturbed()
    name = "unet/diffusion_pytorch_model.safetensors"
    body = bytearray(s3_home.storage.read(name))
    body[-1] ^= 1
    s3_home.storage.write(name, [bytes(body)])
    process = bench.start(home, **{**base, "max_train_steps": 8})  # type: ignore[arg-type]
    assert process.wait() == 78
    assert (
        f"The base model {s3_home.uri} is not the one that the run was begun with: {name} differs" in process.output()
    )
