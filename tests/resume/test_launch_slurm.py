"""`dbr launch slurm` on a real Slurm: whatever ends a job's turn, the run ends in the bytes of one left alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.launch.base import Job
from dreambooth_resume.launch.launchers import launcher_named
from dreambooth_resume.launch.record import read_launches
from dreambooth_resume.launch.state_folder import output_file
from dreambooth_resume.runs.entries import PlatformJob
from dreambooth_resume.runs.history import read_history
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.slurm_cluster import PACKAGES, Cluster, missing_programs, shared_cluster
from tests.resume.conftest import Undisturbed
from tests.resume.harness import TIMEOUT_SECONDS, Bench, committed_steps, result_digests

pytestmark = pytest.mark.real

LENGTH = {"max_train_steps": 80, "checkpointing_steps": 20, "checkpoints_total_limit": 2}
LAUNCHER = launcher_named("slurm", {})


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    if missing := missing_programs():
        pytest.skip(f"{', '.join(missing)} not installed: apt-get install --no-install-recommends {PACKAGES}")
    cluster = shared_cluster()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


def job_of(home: Path) -> Job:
    job = read_launches(LocalStorage(home))[-1].job
    assert job is not None
    return job


def output(home: Path) -> str:
    file = output_file(read_launches(LocalStorage(home))[-1].id)
    return file.read_text(errors="replace") if file.exists() else ""


def wait_for(home: Path, reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not reached():
        assert time.monotonic() < deadline, (
            f"never came to {what}: {LAUNCHER.look(job_of(home))}\n{output(home)[-3000:]}"
        )
        time.sleep(0.05)


def wait_for_attempt(home: Path, attempt: int) -> None:
    """Until it has made a step."""

    def trains() -> bool:
        turns = output(home).split(f", restart {attempt - 1}\n")
        return len(turns) == 2 and "\nstep " in turns[1]

    wait_for(home, trains, f"attempt {attempt}")


def requeued_starts(cluster: Cluster, home: Path, attempt: int) -> None:
    """Until this attempt trains, without the seconds for which Slurm would keep a requeued job back."""
    number = job_of(home).values["job"]
    wait_for(home, lambda: cluster.job_state(number) == "PENDING", "being requeued")
    cluster.ask("scontrol", "update", f"JobId={number}", "StartTime=now+2")
    wait_for_attempt(home, attempt)


@pytest.mark.slow
@pytest.mark.timeout(400)  # five turns
def test_limit_requeue_preemption_stop_and_the_job_file_by_hand_end_in_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, home: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    words = bench.words(home, **LENGTH)
    assert main(["launch", "slurm", "--time", "30", *words]) == 0
    number = job_of(home).values["job"]
    wait_for_attempt(home, 1)
    # What Slurm sends before the time limit, at once.
    cluster.ask("scancel", "--batch", "--signal=USR1", number)
    requeued_starts(cluster, home, 2)
    cluster.ask("scontrol", "requeue", number)
    requeued_starts(cluster, home, 3)
    # The training is told when the grace of a minute begins, and has freed the node long before it is over.
    began = time.monotonic()
    other = cluster.ask("sbatch", "--parsable", "--partition=high", "--gres=gpu:1", "--output=/dev/null", "--wrap=true")
    wait_for(home, lambda: cluster.job_state(other.strip()) == "COMPLETED", "the job of the higher partition")
    assert time.monotonic() - began < 50.0
    requeued_starts(cluster, home, 4)
    assert main(["launch", "slurm", *words]) == 75, "it is trained already"
    # Told to stop it saves, and is not requeued.
    assert main(["stop", str(home)]) == 0
    wait_for(home, lambda: LAUNCHER.look(job_of(home)).state == "ended", "the end")
    assert LAUNCHER.look(job_of(home)).exit_code == 76, output(home)
    assert "restart 3" in LAUNCHER.look(job_of(home)).because
    assert committed_steps(home)
    capsys.readouterr()
    assert main(["launch", "list"]) == 0
    assert "ended" in capsys.readouterr().out
    assert main(["logs", str(home)]) == 0
    assert "exit code 75, requeued" in capsys.readouterr().out
    # The job file in the home goes on by hand.
    (file,) = (home / "jobs").glob("*/submit.slurm")
    again = cluster.ask("sbatch", "--parsable", str(file)).strip()
    wait_for(home, lambda: cluster.job_state(again) == "COMPLETED", "the end by hand")
    assert result_digests(home) == undisturbed(**LENGTH)
    attempts = read_history(LocalStorage(home))
    assert [attempt.ending for attempt in attempts] == ["stopped"] * 4 + ["finished"]
    assert [attempt.job for attempt in attempts] == [
        *(PlatformJob(name=f"Slurm job {number}", restarts=restarts) for restarts in range(4)),
        PlatformJob(name=f"Slurm job {again}"),
    ]
    assert main(["history", str(home)]) == 0
    assert f", Slurm job {number}, restart 3 " in capsys.readouterr().out


def test_one_that_waits_is_seen_stopped_and_resumed_elsewhere(
    bench: Bench, home: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", "slurm", "--partition", "closed", *bench.words(home, **LENGTH)]) == 0
    assert main(["launch", "list"]) == 0
    shown = capsys.readouterr().out
    assert "waiting" in shown
    assert "PartitionDown" in shown
    assert main(["stop", str(home)]) == 0
    assert not cluster.jobs()
    assert main(["resume", str(home)]) == 0
    assert "closed" in cluster.ask("squeue", "--noheader", "--format=%P")
    assert main(["stop", str(home)]) == 0
    assert not (home / "run.json").exists(), "nothing was trained"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--partition", "lwo"], "--partition low"),
        (["--gpus", "9"], "Requested node configuration is not available"),
        (["--mem=64000"], ("Memory specification can not be satisfied", "node configuration is not available")),
        (["--time", "3"], "signal-seconds"),
        (["--time", "soon"], "04:00:00"),
        (["--mem", "9 G"], "is no value of sbatch"),
        (["--partition", "short", "--signal-seconds", "60"], "signal-seconds"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    words: list[str],
    said: str | tuple[str, ...],
    bench: Bench,
    home: Path,
    cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of memory Slurm says one or the other, by what it looks at first."""
    assert main(["launch", "slurm", *words, *bench.words(home, **LENGTH)]) == 2
    told = capsys.readouterr().err
    assert any(one in told for one in ((said,) if isinstance(said, str) else said))
    assert not home.exists()
    assert not cluster.jobs()


def test_without_slurm_it_says_which_program_is_missing(
    bench: Bench, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    assert main(["launch", "slurm", *bench.words(home, **LENGTH)]) == 2
    assert "sinfo: is not installed on this machine" in capsys.readouterr().err
    assert not home.exists()


def test_a_dry_run_prints_the_job_file_and_submits_nothing(
    bench: Bench, home: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "high")
    assert main(["launch", "slurm", "--cpus-per-task", "2", *bench.words(home, **LENGTH), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for line in ("--requeue", "--signal=B:USR1@120", "--open-mode=append", "--gres=gpu:1", "--cpus-per-task=2"):
        assert f"#SBATCH {line}\n" in shown
    assert not home.exists()
    assert not cluster.jobs()
