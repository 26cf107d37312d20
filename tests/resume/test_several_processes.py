"""`--num_processes`: killed, told to leave, hung, short of memory, always compared with a run of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.faults import fault
from tests.resume.harness import KILLED, Bench, Process, committed_steps, log_of, result_digests
from tests.resume.s3_home import S3Home

# A forked process is there at once. The last test starts real ones.
FORKED: dict[str, Any] = {"limits": {"dreambooth_resume.workflows.several:START_METHOD": "fork"}}
ONE: dict[str, Any] = {"train_batch_size": 1, "gradient_accumulation_steps": 4}
TWO: dict[str, Any] = {"train_batch_size": 1, "gradient_accumulation_steps": 2, "num_processes": 2, **FORKED}

# All that a hand has to know or to be told: five micro-batches of several shapes, dropout, trained text encoders that
# come to rest, class pictures, pictures encoded on the spot, a loss scale that an overflow halves.
MUCH: dict[str, Any] = {
    "train_batch_size": 1,
    "train_text_encoder_ti": True,
    "token_abstraction": "TOK",
    "instance_prompt": "a photo of TOK",
    "text_encoder_lr": 1e-3,
    "learning_rate": 1e-4,
    "scale_lr": True,
    "lora_dropout": 0.3,
    "with_prior_preservation": True,
    "class_prompt": "a photo of a robot",
    "num_class_images": 2,
    "use_aspect_ratio_buckets": True,
    "cache_latents": False,
    "use_ema": True,
    "mixed_precision": "fp16",
    "validation_data_dir": "PICTURES",
    "validation_steps": 2,
}


def hand_of(process: Process) -> psutil.Process:
    (hand,) = psutil.Process(process.pid).children()
    return hand


@pytest.fixture
def much(bench: Bench) -> dict[str, Any]:
    return {**MUCH, "validation_data_dir": bench.pictures}


def test_a_kill_of_process_0_ends_the_other_and_the_resumed_run_has_the_bytes_of_one_process(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process = bench.start(home, **TWO)
    process.wait_for_step(3)
    hand = hand_of(process)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    hand.wait(timeout=60)
    resumed = bench.run(home, **TWO)
    assert "2 processes compute each step together." in resumed.output()
    assert "quivalent" not in resumed.output()
    assert log_of(home).highest_attempt == 2
    assert result_digests(home) == undisturbed(**ONE)


def test_a_kill_of_the_other_costs_no_step_and_any_number_of_processes_goes_on(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    rarely = {**TWO, "checkpointing_steps": 100}
    process = bench.start(home, **rarely)
    process.wait_for_step(1)
    hand_of(process).send_signal(signal.SIGKILL)
    assert process.wait() == 70
    assert "Process 1 of 2 was ended by SIGKILL, as the system does when memory is short" in process.output()
    (saved,) = committed_steps(home)
    assert saved >= 1
    bench.run(home, **{**rarely, "num_processes": 3})
    assert result_digests(home) == undisturbed(**ONE)


@pytest.mark.parametrize(
    ("number", "to_all", "code"), [(signal.SIGTERM, False, 75), (signal.SIGINT, True, 76)], ids=["the other", "all"]
)
def test_a_signal_to_the_other_process_or_to_all_saves_and_the_run_goes_on_alone(
    number: signal.Signals, to_all: bool, code: int, bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process = bench.start(home, **TWO)
    process.wait_for_step(1)
    if to_all:
        os.killpg(process.pid, number)  # as Ctrl-C does
    else:
        hand_of(process).send_signal(number)
    assert process.wait() == code
    whose = number.name if to_all else f"{number.name} to process 1"
    assert f"{whose}: saving step " in process.output()
    assert log_of(home).entries[-1].body.kind == "stopped"
    bench.run(
        home, num_processes=1, **{name: TWO[name] for name in ("train_batch_size", "gradient_accumulation_steps")}
    )
    assert result_digests(home) == undisturbed(**ONE)


def test_a_notice_is_heeded_while_the_other_process_hangs_and_the_run_goes_on(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    soon = {"limits": {**FORKED["limits"], "dreambooth_resume.training.hands:LATE_SECONDS": 0.0}}
    # The first micro-batch of the other process in the fourth step.
    process = bench.start(home, **{**TWO, **soon, "faults": [fault("hang", step=3, slots=(1,))]})
    process.wait_for_step(3)
    hand = hand_of(process)
    process.wait_for(lambda: hand.status() == psutil.STATUS_STOPPED, "the hang")
    process.send(signal.SIGTERM)
    assert process.wait() == 75, process.output()
    assert "SIGTERM: saving step 3, then leaving." in process.output()
    assert not hand.is_running()
    bench.run(home, **TWO)
    assert result_digests(home) == undisturbed(**ONE)


def test_with_much_at_once_a_killed_run_of_two_has_the_bytes_of_one(
    much: dict[str, Any], bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, tmp_path: Path
) -> None:
    faults = [fault("overflow", step=1, slots=(1,))]
    two = {
        **much,
        "gradient_accumulation_steps": 2,
        "num_processes": 2,
        "faults": faults,
        **FORKED,
        **s3_home.options(),
    }
    process = bench.start(tmp_path / "first", **two)
    process.wait_until_durable(s3_home.storage)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    bench.run(tmp_path / "second", **two)
    one = {**much, "gradient_accumulation_steps": 4, "faults": faults}
    assert result_digests(s3_home.storage) == undisturbed(**one)


def test_too_little_memory_while_process_0_loads_is_tried_again_by_all(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process = bench.run(home, **TWO, faults=[fault("loading", step=0)])
    assert "Out of memory before the first step (CUDA out of memory). Once more in" in process.output()
    assert log_of(home).highest_attempt == 1
    assert result_digests(home) == undisturbed(**ONE)


# Micro-batches of two samples; slots 2 and 3 are the other process's.
@pytest.mark.parametrize("kind", ["memory", "nan"])
def test_what_goes_wrong_in_the_other_process_is_mended_as_in_one(
    kind: str, bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    faults = [fault(kind, step=3, slots=(2, 3))]
    process = bench.run(home, num_processes=2, faults=faults, **FORKED)
    told = {
        "memory": "Step 4: out of memory with 2 samples at once (in process 1 of 2).",
        "nan": "Step 4: the loss is nan. Nothing of it was saved. Going back to step 2 (checkpoint-2) as attempt 2",
    }
    assert told[kind] in process.output()
    assert result_digests(home) == undisturbed(gradient_accumulation_steps=2, faults=faults)


@pytest.mark.timeout(400)
def test_torchrun_starts_them_too(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    words = bench.words(home, **{**TWO, "limits": None, "num_processes": None})
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "dreambooth_resume", "train", *words],
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 processes compute each step together.") == 1
    assert done.stdout.count("Finished: step 6 of 6") == 1
    assert result_digests(home) == undisturbed(**ONE)
