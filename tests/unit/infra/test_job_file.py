"""infra/submit.slurm with programs of our own in place of Slurm's: which ends are requeued, and which never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreambooth_resume.launch.slurm import job_file
from dreambooth_resume.launch.slurm_settings import SlurmSettings, limit_seconds
from tests.contracts.launcher_cases import request_for

# A step that ends with $CODE, or waits for a signal and ends with $CODE then. In Python: a shell in the background
# can't take over INT, which srun does.
SRUN = """\
#!{python} -IS
import os, pathlib, signal
for number in (signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda *_: os._exit(int(os.environ["CODE"])))
pathlib.Path("started").touch()
if os.environ["HOLD"]:
    signal.sigtimedwait([], 20)
os._exit(int(os.environ["CODE"]))
"""
PROGRAMS = {
    "srun": SRUN.format(python=sys.executable),
    "squeue": '#!/bin/bash\necho "$@" >> looked\necho "$STATE"\n',
    "scontrol": '#!/bin/bash\necho "$@" >> asked\nkill -TERM "$PPID"\n',
}
NUMBER = "7"


class Batch:
    """A job's shell on a node of our own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name, text in PROGRAMS.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)

    def start(self, code: int, *, state: str = "RUNNING", restarts: str = "0", hold: bool = False, **more: str) -> None:
        text = job_file(request_for(str(self.folder / "dog")), SlurmSettings())
        output = next(line for line in text.splitlines() if line.startswith("output="))
        (self.folder / "submit.slurm").write_text(text.replace(output, "output=log"))
        told = {"CODE": str(code), "STATE": state, "SLURM_RESTART_COUNT": restarts, "HOLD": "yes" if hold else ""}
        self.shell = subprocess.Popen(
            ["bash", "submit.slurm"],
            cwd=self.folder,
            env={
                **os.environ,
                "SLURM_JOB_ID": NUMBER,
                **told,
                **more,
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            },
            # A shell can't trap what was ignored when it began, as INT is where these tests run in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 20
        while not (self.folder / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> tuple[int, bool]:
        """The exit code, and whether Slurm was asked to requeue the job."""
        code = self.shell.wait(timeout=20)
        asked = self.folder / "asked"
        return code, asked.exists() and asked.read_text() == f"requeue {NUMBER}\n"


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Batch(tmp_path)


@pytest.mark.parametrize("code", [75, 70, 137, 143])
def test_requeued(code: int, batch: Batch) -> None:
    batch.start(code)
    assert batch.end() == (code, True)


@pytest.mark.parametrize("code", [0, 1, 2, 76, 77, 78, 79])
def test_never_requeued(code: int, batch: Batch) -> None:
    batch.start(code)
    assert batch.end() == (code, False)


def test_a_task_of_an_array_asks_for_itself_alone(batch: Batch) -> None:
    """Its last task has the array's own number, by which Slurm means all of them."""
    batch.start(75, SLURM_JOB_ID="40", SLURM_ARRAY_JOB_ID="40", SLURM_ARRAY_TASK_ID="3")
    assert batch.end()[0] == 75
    assert (batch.folder / "looked").read_text() == "--noheader --jobs=40_3 --format=%T\n"
    assert (batch.folder / "asked").read_text() == "requeue 40_3\n"


def test_a_death_is_not_requeued_for_ever_and_coming_back_is(batch: Batch) -> None:
    batch.start(137, restarts="100")
    assert batch.end() == (137, False)
    batch.start(75, restarts="100")
    assert batch.end() == (75, True)


def test_a_job_that_was_cancelled_before_its_shell_heard_of_it_stays_so(batch: Batch) -> None:
    batch.start(75, state="COMPLETING")
    assert batch.end() == (75, False)


@pytest.mark.parametrize(
    ("number", "ended"),
    [(signal.SIGUSR1, (75, True)), (signal.SIGINT, (76, False))],
)
def test_signals_reach_the_step_and_decide(number: signal.Signals, ended: tuple[int, bool], batch: Batch) -> None:
    batch.start(75, hold=True)
    batch.shell.send_signal(number)
    assert batch.end() == ended


def test_ended_by_slurm_it_waits_for_the_step_and_asks_for_nothing(batch: Batch) -> None:
    batch.start(75, hold=True)
    batch.shell.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        batch.shell.wait(timeout=0.3)
    # Slurm tells the step at the same time.
    batch.shell.send_signal(signal.SIGUSR1)
    assert batch.end() == (75, False)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 1800), ("1:30", 90), ("04:00:00", 14400), ("2-12", 216000), ("1-00:30", 88200), ("1-00:00:05", 86405),
     ("infinite", None), ("n/a", None), ("1h", None)],
)  # fmt: skip
def test_times_are_read_as_slurm_reads_them(text: str, seconds: int | None) -> None:
    assert limit_seconds(text) == seconds
