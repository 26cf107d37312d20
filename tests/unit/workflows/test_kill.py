"""Killing a run's processes on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.holder import process_with
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.kill import kill_run
from tests.fakes.toy_run import machine
from tests.fakes.watched_run import beat, hold, record_run


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    made = LocalStorage(tmp_path / "dog")
    record_run(made)
    return made


def test_the_holder_on_this_machine_is_killed_and_the_run_is_seen_as_gone(storage: LocalStorage) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as trainer:
        hold(storage, process_with(trainer.pid))
        assert kill_run(storage) == (trainer.pid,)
        assert trainer.wait(timeout=60) == -signal.SIGKILL
    summary = summarise(storage)
    assert summary is not None
    assert summary.state == "vanished"


def test_a_holder_elsewhere_is_left_alone(storage: LocalStorage) -> None:
    writer = hold(storage, machine("far-away"))
    beat(storage, writer.attempt, process=machine("far-away"))
    with pytest.raises(BadInput, match="far-away") as refused:
        kill_run(storage)
    assert "dbr stop" in (refused.value.fix or "")


def test_a_run_that_nobody_trains_is_refused(storage: LocalStorage) -> None:
    with pytest.raises(BadInput, match="not on this machine"):
        kill_run(storage)
