"""A home's disk is unmounted in the middle of a run: an alarm, a bare folder that stays bare, and commits catch up."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import Bench, committed_steps, log_of, result_digests, shown_step

pytestmark = pytest.mark.real
LONG = {"max_train_steps": 80, "checkpointing_steps": 4, "train_batch_size": 1}
LIMITS = {
    "dreambooth_resume.checkpoint.manager:CheckpointManager.retry_seconds": 0.2,
    "dreambooth_resume.storage.local:LocalStorage.hint_interval_seconds": 0.1,
}


@pytest.fixture
def mount(home: Path, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """What puts the disk back over `home`, where it lies at first; without the rights to mount, a skip."""
    disk = tmp_path / "disk"
    for folder in (disk, home):
        folder.mkdir()

    def mount() -> None:
        try:
            done = subprocess.run(
                ["mount", "--bind", str(disk), str(home)], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if done.returncode != 0:
            pytest.skip(f"a folder can't be mounted here: {done.stderr.strip()}")

    mount()
    yield mount
    subprocess.run(["umount", "--lazy", str(home)], check=False)


def test_training_goes_on_with_an_alarm_and_commits_catch_up_once_it_is_back(
    bench: Bench, undisturbed: Undisturbed, home: Path, mount: Callable[[], None]
) -> None:
    process = bench.start(home, limits=LIMITS, **LONG)
    process.wait_for(lambda: len(committed_steps(home)) >= 1, "a commit")
    subprocess.run(["umount", "--lazy", str(home)], check=True)
    process.wait_for(lambda: "NOT SAVED " in process.output(), "an alarm")
    process.wait_for_step(min(shown_step(process.output()) + 6, LONG["max_train_steps"]))
    assert "its disk unmounted" in process.output()
    assert list(home.iterdir()) == [], "nothing is written into the folder below the mount"
    mount()
    durable = committed_steps(home)
    process.wait_for(lambda: committed_steps(home)[-1] > durable[-1], "a commit that catches up")
    assert process.wait() == 0, process.output()
    assert json.loads((home / "status/0001.json").read_text())["alarm"] is None
    assert log_of(home).highest_attempt == 1
    assert result_digests(home) == undisturbed(**LONG)
