"""`dbr drill` on a run that was launched here and on a real Slurm, through real signals to forked processes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.launch.base import Job
from dreambooth_resume.launch.launchers import launcher_named
from dreambooth_resume.launch.record import read_launches
from dreambooth_resume.runs.history import read_history
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.slurm_cluster import PACKAGES, missing_programs, shared_cluster
from tests.resume.forking_python import forking_python
from tests.resume.harness import TIMEOUT_SECONDS, Bench


def wait_for(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not reached():
        assert time.monotonic() < deadline, f"never came to {what}"
        time.sleep(0.05)


def job_of(home: Path) -> Job:
    job = read_launches(LocalStorage(home))[-1].job
    assert job is not None
    return job


def trains(home: Path) -> bool:
    summary = summarise(LocalStorage(home))
    return summary is not None and summary.state == "running" and summary.step > 0


@pytest.fixture(params=["local", pytest.param("slurm", marks=pytest.mark.real)])
def where(
    request: pytest.FixtureRequest, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The launcher; of Slurm a real one is there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if request.param == "slurm":
        if missing := missing_programs():
            pytest.skip(f"{', '.join(missing)} not installed: apt-get install --no-install-recommends {PACKAGES}")
        for name, value in shared_cluster().environment.items():
            monkeypatch.setenv(name, value)
    with forking_python(bench, tmp_path) as python:
        monkeypatch.setattr(sys, "executable", str(python))
        yield str(request.param)


SENT = {"local": ("SIGKILL to pid ", "SIGTERM to pid "), "slurm": ("scancel --signal=KILL ", "--batch --signal=USR1 ")}


@pytest.mark.slow
@pytest.mark.timeout(600)  # three starts, on Slurm each after the wait of a requeued job
def test_a_kill_and_a_notice_are_survived_and_timed(
    where: str, bench: Bench, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = bench.words(home, max_train_steps=100_000, checkpointing_steps=5, checkpoints_total_limit=1)
    assert main(["launch", where, *words]) == 0
    try:
        wait_for(lambda: trains(home), "a step")
        capsys.readouterr()
        assert main(["drill", str(home), "--how", "kill", "--yes", "--json"]) == 0
        killed = json.loads(capsys.readouterr().out)
        assert killed["sent"].startswith(SENT[where][0])
        assert killed["noticed_seconds"] is None
        assert 0.0 <= killed["gone_seconds"] <= killed["back_seconds"] <= killed["first_step_seconds"]
        assert (killed["attempt"], killed["back_attempt"]) == (1, 2)
        assert killed["steps_lost"] == killed["reached_step"] - killed["resumed_step"]
        assert main(["drill", str(home), "--yes"]) == 0
        page = capsys.readouterr().out
        assert SENT[where][1] in page
        assert "with 0 steps lost" in page
        for row in ("noticed", "saved", "gone", "back", "first new step"):
            assert any(line.startswith(f"{row}  ") for line in page.splitlines()), row
    finally:
        assert main(["stop", str(home)]) == 0
        launcher = launcher_named(where, {})
        wait_for(lambda: launcher.look(job_of(home)).state == "ended", "the end")
    assert [attempt.ending for attempt in read_history(LocalStorage(home))] == ["lost", "stopped", "stopped"]
