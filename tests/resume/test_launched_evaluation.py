"""`dbr eval --on`: an evaluation as a job of its own, through real processes and a real Slurm, beside the run."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.launch.base import Job
from dreambooth_resume.launch.launchers import launcher_named
from dreambooth_resume.launch.record import read_launches
from dreambooth_resume.runs.entries import Process
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.launched import live_jobs, newest_job
from tests.fakes.scorers import build_clip, build_dino
from tests.fakes.slurm_cluster import PACKAGES, missing_programs, shared_cluster
from tests.resume.harness import Bench
from tests.resume.test_evaluate import records
from tests.resume.test_launch_local import wait_for

PICTURES = 2 * 25


@pytest.fixture
def words(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    dino, clip = build_dino(tmp_path / "dino"), build_clip(tmp_path / "clip", bench.model / "tokenizer")
    models = ["--dino-model", str(dino), "--clip-model", str(clip)]
    return ["--prompts", "objects", "--num-images", "1", "--inference-steps", "2", *models]


def job_of(home: Path) -> Job:
    job = read_launches(LocalStorage(home), "eval")[-1].job
    assert job is not None
    return job


def output(home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["logs", str(home), "--eval"]) == 0
    return capsys.readouterr().out


def evaluator_of(home: Path) -> psutil.Process | None:
    """The process below the supervisor, once it is there."""
    supervisor = Process.model_validate_json(job_of(home).values["process"])
    children = psutil.Process(supervisor.pid).children()
    return children[0] if children else None


def scored(home: Path) -> int:
    return len(list((home / "eval").glob("*/checkpoint-*/*.json")))


def ended(where: str, home: Path) -> Callable[[], bool]:
    launcher = launcher_named(where, {})
    return lambda: launcher.look(job_of(home)).state == "ended"


@pytest.mark.slow
@pytest.mark.timeout(300)  # two starts in real processes, one in a forked one
def test_launched_here_and_killed_it_goes_on_to_the_same_bytes_and_is_no_launch_of_the_training(
    bench: Bench, home: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bench.run(home, max_train_steps=4)
    alone = tmp_path / "alone"
    shutil.copytree(home, alone)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    storage = LocalStorage(home)

    assert main(["eval", str(home), *words, "--on", "local", "--no-queue", "--dry-run"]) == 0
    assert f"supervise {home} --launch" in capsys.readouterr().out
    assert {path for path in home.rglob("*") if path.is_file()} == before.keys(), "a dry run makes nothing"
    assert main(["eval", str(home), *words, "--on", "local", "--no-queue"]) == 0
    assert f"dbr logs {home} --eval -f" in capsys.readouterr().out
    assert main(["eval", str(home), *words, "--on", "local"]) == 75, "one is enough"
    assert "was launched already" in capsys.readouterr().err
    assert newest_job(storage) is None, "no launch of the training"
    assert live_jobs(storage) == []
    assert main(["launch", "list"]) == 0
    assert f"{home}  eval  local" in capsys.readouterr().out
    assert main(["status", str(home)]) == 0
    assert "evaluated  local: pid" in capsys.readouterr().out

    wait_for(lambda: scored(home) >= 1, "a first score", lambda: output(home, capsys))
    evaluator = evaluator_of(home)
    assert evaluator is not None
    evaluator.send_signal(signal.SIGKILL)
    wait_for(lambda: "killed by signal 9: starting again" in output(home, capsys), "the next start")
    assert scored(home) < PICTURES
    undisturbed = bench.command(alone, ["eval", str(alone), *words])
    assert undisturbed.wait() == 0, undisturbed.output()
    wait_for(ended("local", home), "the end", lambda: output(home, capsys))
    assert launcher_named("local", {}).look(job_of(home)).exit_code == 0, output(home, capsys)
    assert records(home) == records(alone)
    assert scored(home) == PICTURES
    assert f"{PICTURES} pictures are scored already" in output(home, capsys)
    # Of the run no byte is another, and no entry, attempt or output of it is new.
    assert {path: path.read_bytes() for path in before} == before
    assert main(["logs", str(home)]) == 2
    assert f"dbr logs {home} --eval" in capsys.readouterr().err


@pytest.mark.real
@pytest.mark.timeout(300)
def test_on_slurm_it_is_a_job_that_a_stop_ends_for_good(
    bench: Bench, home: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if missing := missing_programs():
        pytest.skip(f"{', '.join(missing)} not installed: apt-get install --no-install-recommends {PACKAGES}")
    for name, value in shared_cluster().environment.items():
        monkeypatch.setenv(name, value)
    bench.run(home, max_train_steps=4)
    assert main(["eval", str(home), *words, "--on", "slurm", "--time", "30"]) == 0
    wait_for(lambda: scored(home) >= 1, "a first score", lambda: output(home, capsys))
    assert "dbr-eval-" in job_of(home).values["job_name"]
    assert main(["stop", str(home), "--eval"]) == 0
    assert f"Told {job_of(home).name} to end" in capsys.readouterr().out
    wait_for(ended("slurm", home), "the end", lambda: output(home, capsys))
    assert launcher_named("slurm", {}).look(job_of(home)).exit_code == 76, output(home, capsys)
    assert 1 <= scored(home) < PICTURES
    assert main(["stop", str(home), "--eval"]) == 0
    assert "No evaluation that was launched" in capsys.readouterr().out
