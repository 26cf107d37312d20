"""n steps, any kill, a resume, to the end = the undisturbed run, every byte."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests, sha256

VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "in_the_middle_of_an_epoch": {"train_batch_size": 1, "max_train_steps": 8},
    "accumulation": {"train_batch_size": 1, "gradient_accumulation_steps": 2},
    "warmup_and_cosine": {"lr_scheduler": "cosine", "lr_warmup_steps": 3},
    "dropout": {"lora_dropout": 0.3, "rank": 2, "lora_alpha": 8},
    "free_crops_without_cache": {"cache_latents": False, "center_crop": False, "random_flip": True},
    "workers": {"dataloader_num_workers": 2, "prefetch_factor": 3},
    "min_snr": {"snr_gamma": 5, "gradient_checkpointing": True, "lora_dropout": 0.3},
    "edm_style": {
        "do_edm_style_training": True,
        "train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "validation_prompt": "a photo of sks robot",
        "num_validation_images": 1,
    },
    "prodigy": {"optimizer": "prodigy", "learning_rate": 1, "lr_scheduler": "linear", "lr_warmup_steps": 2},
    "adamw_8bit": {"use_8bit_adam": True, "rank": 64},
    "bf16": {"mixed_precision": "bf16", "gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_once_ends_in_the_same_bytes(name: str, bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    changed = VARIANTS[name]
    process = bench.start(home, **changed)
    process.wait_until_durable(home)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    bench.run(home, **changed)
    assert log_of(home).highest_attempt == 2
    assert result_digests(home) == undisturbed(**changed)


def test_killed_while_the_state_is_copied_beside_the_training(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    """Copies that take longer than a step: each update has to wait for the last save's."""
    every_step = {"checkpointing_steps": 1}
    process = bench.start(home, slow_copies=0.02, **every_step)
    process.wait_until_durable(home)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    assert bench.start(home, slow_copies=0.02, **every_step).wait() == 0
    assert log_of(home).highest_attempt == 2
    assert result_digests(home) == undisturbed()


def test_killed_three_times_in_one_run(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    changed = {"max_train_steps": 12}
    for step in (3, 6, 9):
        process = bench.start(home, **changed)
        process.wait_for_step(step)
        process.send(signal.SIGKILL)
        assert process.wait() == KILLED
    bench.run(home, **changed)
    assert log_of(home).highest_attempt == 4
    assert result_digests(home) == undisturbed(**changed)


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_until_it_is_done(
    seed: int, bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    """Kills at any moment of a process's life, imports of the run's parts and the last file's copy included."""
    moments = random.Random(seed)
    longer = {"max_train_steps": 40, "checkpointing_steps": 3}
    kills = 0
    for _ in range(4):
        process = bench.start(home, **longer)
        time.sleep(moments.uniform(0.02, 0.9))
        process.send(signal.SIGKILL)
        kills += process.wait() == KILLED
    bench.run(home, **longer)
    assert kills > 0
    assert result_digests(home) == undisturbed(**longer)


def test_killed_after_the_last_checkpoint_and_before_the_final_file(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    crash = CrashPoint(call="replace", path="pytorch_lora_weights.safetensors")
    assert bench.start(home, crash=crash).wait() == KILLED
    assert log_of(home).finished is not None
    assert not (home / "pytorch_lora_weights.safetensors").exists()
    resumed = bench.run(home)
    assert "step 1/" not in resumed.output()
    assert result_digests(home) == undisturbed()


def test_killed_after_the_last_commit_and_before_finished_trains_nothing_again(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    # 1 adopt, 2 to 4 checkpoints of steps 2, 4, 6, and 5 would be `finished`.
    assert bench.start(home, crash=CrashPoint(call="link", path="log/00000005.json")).wait() == KILLED
    assert committed_steps(home) == [2, 4, 6]
    bench.run(home)
    assert committed_steps(home) == [2, 4, 6]
    assert result_digests(home) == undisturbed()


def test_resuming_a_finished_run_does_nothing(bench: Bench, home: Path) -> None:
    bench.run(home)
    before = {path: sha256(path) for path in home.rglob("*") if path.is_file()}
    again = bench.run(home)
    assert "Finished: step 6 of 6" in again.output()
    assert {path: sha256(path) for path in home.rglob("*") if path.is_file()} == before


def test_a_result_that_was_lost_is_restored_from_the_finished_run(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    bench.run(home)
    (home / "pytorch_lora_weights.safetensors").unlink()
    bench.run(home)
    assert result_digests(home) == undisturbed()


def test_killed_before_its_first_checkpoint_begins_again(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    process = bench.start(home)
    process.wait_for_step(1)
    process.send(signal.SIGSTOP)  # so that no checkpoint can slip in between
    if committed_steps(home):
        pytest.fail("a checkpoint of step 2 was committed before step 2 was shown")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    resumed = bench.run(home)
    assert "begins at step 0 of 6. No checkpoint was committed" in resumed.output()
    assert result_digests(home) == undisturbed()


def test_what_was_written_and_not_committed_is_taken_in_place_of_training(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    """Rule 9: the data of step 4 is whole, its log entry is missing; the next attempt commits it as its own."""
    crash = CrashPoint(call="link", path="log/00000003.json")
    assert bench.start(home, crash=crash).wait() == KILLED
    assert committed_steps(home) == [2]
    resumed = bench.run(home)
    assert "Resuming from what attempt 1 had written and not yet committed" in resumed.output()
    assert "step 5/6" in resumed.output()
    assert "step 4/6" not in resumed.output()
    assert not (home / "checkpoint-4").exists()
    assert (home / "checkpoint-4-a2").exists()
    last = log_of(home).last
    assert last is not None
    assert last.state.totals.redone_steps <= 1, "what was taken from the stage is not made again"
    assert result_digests(home) == undisturbed()


def test_the_number_of_loader_workers_changes_nothing(undisturbed: Undisturbed) -> None:
    assert undisturbed(dataloader_num_workers=3, prefetch_factor=1) == undisturbed()


def test_saving_more_often_changes_nothing(bench: Bench, undisturbed: Undisturbed) -> None:
    assert undisturbed(checkpointing_steps=1)["result"] == undisturbed(checkpointing_steps=5)["result"]
