"""Bad input ends in exit code 2 with the fix in a line or two, before a model is loaded or anything is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.resume.harness import Bench, log_of


def refused(bench: Bench, home: Path, *expected: str, **changed: object) -> None:
    """The start exits with 2, says all of `expected`, ends with what is wrong and its fix, and has written no run.

    Nothing else is said, but for the table of what a resume is given otherwise.
    """
    existed = (home / "run.json").exists()
    process = bench.start(home, **changed)
    assert process.wait() == 2, process.output()
    *table, wrong, fix, more = process.output().splitlines()
    assert wrong.startswith("dbr: "), process.output()
    assert fix.startswith("  fix: "), process.output()
    assert more == "  more: dbr help bad-input"
    assert not table or (existed and table[0] == "Given otherwise than the run has it:"), process.output()
    for words in expected:
        assert words in process.output()
    assert (home / "run.json").exists() == existed
    assert existed or not home.exists()


def test_no_images(bench: Bench, home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("no picture")
    refused(
        bench,
        home,
        f"instance_data_dir: {tmp_path / 'empty'}",
        "No pictures found: looked for .avif, .bmp",
        "1 other file there",
        instance_data_dir=tmp_path / "empty",
    )


def test_unreadable_image_is_named_and_can_be_left_out(bench: Bench, home: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(bench.pictures, pictures)
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8 not a picture")
    refused(bench, home, "broken.jpg", "--skip-bad-images", instance_data_dir=pictures)
    process = bench.run(home, instance_data_dir=pictures, skip_bad_images=True, max_train_steps=1)
    assert "(1 unreadable ones left out)" in process.output()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"learning_rat": 1}, ("--learning_rat", "learning_rate")),
        ({"resolution": 33}, ("--resolution", "multiple of 8")),
        ({"train_batch_size": 0}, ("--train_batch_size", "1")),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 6}, ("lr_warmup_steps is 6, but the run has 6 steps",)),
        ({"with_prior_preservation": True}, ("prior preservation needs a prompt", "--class_prompt")),
        ({"dataset_name": "a/b"}, ("--dataset_name", "give one of the two")),
        ({"max_seq_length": 77}, ("--max_seq_length",)),
        ({"snr_gamma": 5, "do_edm_style_training": True}, ("snr_gamma 5 does not go with EDM-style training",)),
        ({"instance_prompt": None}, ("a new run needs instance_prompt",)),
        ({"pretrained_model_name_or_path": "no-such-folder"}, ("no-such-folder",)),
        ({"instance_data_dir": "no-such-folder"}, ("There is no such folder.", "no-such-folder")),
        (
            {"max_train_steps": 10_000_000, "checkpointing_steps": 1},
            ("will be needed", "are free", "--checkpoints_total_limit 2"),
        ),
        (
            {"lr_scheduler": "cosine", "max_train_steps": None},
            ("lr_warmup_steps is 500 (the default), but the run has 2",),
        ),
    ],
)
def test_options(changed: dict[str, object], expected: tuple[str, ...], bench: Bench, home: Path) -> None:
    refused(bench, home, *expected, **changed)


def test_output_folder_that_is_a_file(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    words = ["train", *bench.words(tmp_path / "file/home")]
    process = bench.command(tmp_path / "home", words)
    assert process.wait() == 2
    assert f"{tmp_path / 'file'} is a file" in process.output()


def test_output_folder_with_another_programs_checkpoints(bench: Bench, home: Path) -> None:
    (home / "checkpoint-500").mkdir(parents=True)
    (home / "checkpoint-500/optimizer.bin").write_bytes(b"x")
    process = bench.start(home)
    assert process.wait() == 2
    assert "checkpoint-500/optimizer.bin, which another program made" in process.output()
    assert [path.name for path in home.iterdir()] == ["checkpoint-500"]


def test_a_run_that_nobody_asked_to_resume(bench: Bench, home: Path) -> None:
    bench.run(home)
    entries = len(log_of(home).entries)
    refused(bench, home, "finished, step 6 of 6", "--resume latest to go on with it", resume=None)
    assert len(log_of(home).entries) == entries


def test_refused_change_says_what_the_run_has(bench: Bench, home: Path) -> None:
    bench.run(home, max_train_steps=2)
    refused(bench, home, "the run has rank 4 (not 8)", "--rank", rank=8, max_train_steps=4)


def test_applied_change_is_said_and_kept(bench: Bench, home: Path) -> None:
    bench.run(home, max_train_steps=2)
    process = bench.run(home, max_train_steps=4, learning_rate=2e-3)
    assert "Changed from step 2 on: learning_rate 0.002 (was 0.001), max_train_steps 4 (was 2)." in process.output()
    # Not given again, it is the run's, not today's default.
    process = bench.run(home, max_train_steps=6, learning_rate=None)
    assert "lr 2.0e-03" in process.output()


def test_folders_are_found_again_from_another_working_directory(bench: Bench, home: Path, tmp_path: Path) -> None:
    """The run was begun with paths relative to the folder it was begun in."""
    (tmp_path / "there").mkdir()
    model = os.path.relpath(bench.model, tmp_path / "there")
    pictures = os.path.relpath(bench.pictures, tmp_path / "there")
    words = bench.words(home, pretrained_model_name_or_path=model, instance_data_dir=pictures, max_train_steps=2)
    process = bench.command(tmp_path / "there/log", ["train", *words])
    assert process.wait() == 0, process.output()
    words = ["train", "--output_dir", str(home), "--resume", "latest", "--max_train_steps", "4"]
    process = bench.command(home, words)
    assert process.wait() == 0, process.output()


def test_options_that_were_not_given_come_from_the_run(bench: Bench, home: Path) -> None:
    bench.run(home, max_train_steps=2, rank=2, lora_alpha=3)
    words = ["train", "--output_dir", str(home), "--resume", "latest", "--max_train_steps", "4"]
    process = bench.command(home, words)
    assert process.wait() == 0, process.output()
    last = log_of(home).last
    assert last is not None
    assert last.state.step == 4


def test_pictures_that_changed_are_listed_and_refused(bench: Bench, home: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    shutil.copytree(bench.pictures, pictures)
    bench.run(home, instance_data_dir=pictures, max_train_steps=2)
    names = sorted(path.name for path in pictures.iterdir())
    (pictures / names[0]).unlink()
    shutil.copy(pictures / names[1], pictures / "new.png")
    process = bench.start(home, instance_data_dir=pictures, max_train_steps=4)
    assert process.wait() == 78
    assert f"added: new.png; removed: {names[0]}" in process.output()
    shutil.rmtree(pictures)
    bench.run(home, instance_data_dir=pictures, max_train_steps=4)


def test_another_base_model_is_refused(bench: Bench, home: Path, tmp_path: Path) -> None:
    bench.run(home, max_train_steps=2)
    other = tmp_path / "other"
    shutil.copytree(bench.model, other)
    weights = other / "unet/diffusion_pytorch_model.safetensors"
    body = bytearray(weights.read_bytes())
    body[-1] ^= 1
    weights.write_bytes(body)
    process = bench.start(home, pretrained_model_name_or_path=other, max_train_steps=4)
    assert process.wait() == 78
    assert (
        "is not the one that the run was begun with: unet/diffusion_pytorch_model.safetensors differs"
        in process.output()
    )


def test_other_portions_of_the_same_batch_are_equivalent_and_said(bench: Bench, home: Path) -> None:
    bench.run(home, max_train_steps=2)
    process = bench.run(home, max_train_steps=4, train_batch_size=1, gradient_accumulation_steps=2)
    assert (
        "Equivalent: same samples and noise, but not the same last bits (micro_batch_size 2 -> 1)." in process.output()
    )
    adopts = [entry.body for entry in log_of(home).entries if entry.body.kind == "adopt"]
    assert [adopt.not_exact_because for adopt in adopts] == [(), ("micro_batch_size 2 -> 1",)]
