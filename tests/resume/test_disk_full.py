"""A real disk that fills up in the middle of a run: an alarm, training goes on, and commits catch up."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, Process, committed_steps, log_of, result_digests, shown_step

pytestmark = pytest.mark.real
# Without a limit, since deleting old checkpoints would make room for new ones.
LONG = {"max_train_steps": 80, "checkpointing_steps": 4, "train_batch_size": 1}
LIMITS = {"dreambooth_resume.checkpoint.manager:CheckpointManager.retry_seconds": 0.2}
SIZE = "200m"  # what a start asks for; little of it is used


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home on a disk of its own: a file system in memory."""
    folder = tmp_path / "home"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode != 0:
        pytest.skip(f"a file system can't be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the room that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as out:
        for size_bytes in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while True:
                    out.write(bytes(size_bytes))
    assert shutil.disk_usage(disk).free == 0
    return ballast


def train_until_it_is_full(bench: Bench, home: Path) -> tuple[Process, Path, int]:
    """A training whose disk was filled, its ballast, and the step it was at when it noticed."""
    process = bench.start(home, limits=LIMITS, **LONG)
    process.wait_for(lambda: len(committed_steps(home)) >= 1 and shown_step(process.output()) >= 4, "a commit")
    ballast = fill(home)
    process.wait_for(lambda: "NOT SAVED " in process.output(), "an alarm")
    return process, ballast, shown_step(process.output())


def test_training_goes_on_with_an_alarm_and_commits_catch_up_once_there_is_room(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process, ballast, step = train_until_it_is_full(bench, home)
    process.wait_for_step(min(step + 6, LONG["max_train_steps"]))
    assert "No space left" in process.output()
    durable = committed_steps(home)
    assert durable, "what was committed stays"
    ballast.unlink()
    process.wait_for(lambda: committed_steps(home)[-1] > max(step, durable[-1]), "a commit that catches up")
    assert process.wait() == 0, process.output()
    assert json.loads((home / "status/0001.json").read_text())["alarm"] is None
    assert log_of(home).highest_attempt == 1
    assert result_digests(home) == undisturbed(**LONG)


def test_killed_on_a_full_disk_it_goes_on_from_the_last_commit(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process, ballast, _ = train_until_it_is_full(bench, home)
    durable = committed_steps(home)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    on_full_disk = bench.start(home, limits=LIMITS, **LONG)
    assert on_full_disk.wait() in (2, 75), on_full_disk.output()
    assert committed_steps(home)[-1] >= durable[-1]
    ballast.unlink()
    bench.run(home, **LONG)
    assert result_digests(home) == undisturbed(**LONG)


def test_an_output_that_goes_to_the_full_disk_does_not_end_the_training(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    """`dbr train … > out.txt` beside the home: nobody can be told, and there is still nothing to stop for."""
    run = home / "run"
    process = bench.start(run, limits=LIMITS, **LONG)
    process.wait_for_step(4)
    ballast = fill(home)
    durable = committed_steps(run)
    time.sleep(1.5)
    assert process.poll() is None, process.output()[-2000:]
    assert len(committed_steps(run)) <= len(durable) + 1
    ballast.unlink()
    assert process.wait() == 0, process.output()[-2000:]
    assert log_of(run).highest_attempt == 1
    assert result_digests(run) == undisturbed(**LONG)


def test_an_output_on_a_disk_that_stays_full_does_not_change_the_exit_code(
    bench: Bench, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    """Only the output is on that disk: the run has room, ends, and says so by 0."""
    elsewhere = tmp_path / "elsewhere"
    process = bench.start(home / "output", **{**LONG, "output_dir": elsewhere})
    process.wait_for_step(4)
    fill(home)
    assert process.wait() == 0, process.output()[-2000:]
    assert result_digests(elsewhere) == undisturbed(**LONG)
