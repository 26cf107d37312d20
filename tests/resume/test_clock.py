"""A clock that is a day off, forwards or backwards, from one attempt to the next: nothing is decided by it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, committed_steps, log_of, result_digests

DAY_SECONDS = 86_400.0
LONG = {"max_train_steps": 40, "checkpointing_steps": 4, "train_batch_size": 1}


def test_a_day_off_in_each_attempt_ends_in_the_same_bytes(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    for clock_off, step in ((DAY_SECONDS, 6), (-DAY_SECONDS, 14), (30 * DAY_SECONDS, 22)):
        process = bench.start(home, clock_off=clock_off, **LONG)
        process.wait_for_step(step)
        process.send(signal.SIGKILL)
        assert process.wait() == KILLED
    bench.run(home, **LONG)
    log = log_of(home)
    days = [entry.written_at[:10] for entry in log.entries]
    assert days != sorted(days), "the clocks were really off"
    assert log.highest_attempt == 4
    assert result_digests(home) == undisturbed(**LONG)


@pytest.mark.parametrize("clock_off", [DAY_SECONDS, -DAY_SECONDS])
def test_a_holder_that_lives_is_waited_for_whatever_the_clock_says(
    clock_off: float, bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    """By the starter's clock the last sign of life is a day old, or a day ahead."""
    first = bench.start(home, **LONG)
    first.wait_for_step(3)
    second = bench.start(home, clock_off=clock_off, **LONG)
    second.wait_for(lambda: "trains this run. Waiting up to" in second.output(), "waiting")
    first.send(signal.SIGTERM)
    assert first.wait() == 75, first.output()
    assert second.wait() == 0, second.output()
    assert log_of(home).highest_attempt == 2
    assert result_digests(home) == undisturbed(**LONG)


@pytest.mark.real
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed: sudo make system-deps")
def test_a_real_process_under_faketime_goes_on_with_the_run(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    first = bench.start(home, **LONG)
    first.wait_for_step(LONG["max_train_steps"] - 10)
    first.send(signal.SIGKILL)
    assert first.wait() == KILLED
    before = committed_steps(home)
    words = ["faketime", "-f", "-1d", sys.executable, "-m", "dreambooth_resume", "train", *bench.words(home, **LONG)]
    environment = {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *words],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    log = log_of(home)
    assert log.entries[-1].written_at < log.entries[0].written_at, "the clock was really off"
    assert set(before) <= set(committed_steps(home))
    assert result_digests(home) == undisturbed(**LONG)
