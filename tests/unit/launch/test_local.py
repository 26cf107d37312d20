"""How a job of this machine stands is seen in its process table, never in what was once written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.launch.base import Job, JobState, JobStatus
from dreambooth_resume.launch.ledger import remember
from dreambooth_resume.launch.local import LocalLauncher, LocalSettings, say_state, session_warnings
from dreambooth_resume.launch.record import write_launch, write_started
from dreambooth_resume.launch.state_folder import launch_folder
from dreambooth_resume.runs.entries import Process
from dreambooth_resume.runs.holder import process_with, this_process
from dreambooth_resume.runs.notes import post_note
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3_address import S3Settings
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import dead_process, record_run

ID = "0123456789abcdef0123456789abcdef"
LAUNCHER = LocalLauncher(LocalSettings())


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def job(process: Process) -> Job:
    return Job(name=f"pid {process.pid}", values={"launch": ID, "process": process.model_dump_json()})


def say(state: JobState, *, exit_code: int | None = None) -> None:
    say_state(ID, JobStatus(state=state, because="it said so", exit_code=exit_code))


def test_a_living_supervisor_is_as_it_says() -> None:
    living = job(this_process())
    assert LAUNCHER.look(living).state == "running"
    say("waiting")
    assert LAUNCHER.look(living).state == "waiting"
    say("ended", exit_code=76)
    assert (LAUNCHER.look(living).state, LAUNCHER.look(living).exit_code) == ("ended", 76)


@pytest.mark.parametrize("said", ["waiting", "running"])
def test_a_supervisor_that_was_killed_has_ended_whatever_it_said(said: JobState) -> None:
    say(said)
    status = LAUNCHER.look(job(dead_process()))
    assert (status.state, status.exit_code) == ("ended", None)
    assert "said no goodbye" in status.because
    assert LAUNCHER.interrupt(job(dead_process())) is True


@pytest.mark.parametrize(
    ("changed", "state"), [("boot_id", "ended"), ("pid_namespace", "unknown"), ("host", "unknown")]
)
def test_of_another_boot_it_has_ended_and_of_another_machine_nobody_knows(changed: str, state: JobState) -> None:
    say("running")
    elsewhere = this_process().model_copy(update={changed: "another"})
    assert LAUNCHER.look(job(elsewhere)).state == state


def test_a_launch_whose_output_is_gone_has_none() -> None:
    assert LAUNCHER.logs(job(dead_process()), follow=False) is None


def test_output_is_followed_to_its_end() -> None:
    folder = launch_folder(ID)
    folder.mkdir(parents=True)
    (folder / "output.log").write_text("one\ntwo\nthree")
    lines = LAUNCHER.logs(job(dead_process()), follow=True)
    assert list(lines or ()) == ["one", "two", "three"]


def test_a_shell_that_takes_the_run_along_is_warned_of(tmp_path: Path) -> None:
    cgroup, logind = tmp_path / "cgroup", tmp_path / "logind.conf"
    assert session_warnings(cgroup, logind) == ()
    cgroup.write_text("0::/system.slice/jupyter.service\n")
    logind.write_text("[Login]\n#KillUserProcesses=no\n")
    (warning,) = session_warnings(cgroup, logind)
    assert "belongs to jupyter.service" in warning
    cgroup.write_text("0::/user.slice/user-1000.slice/user@1000.service/app.slice/term.scope\n")
    logind.write_text("[Login]\nKillUserProcesses=yes\n")
    (warning,) = session_warnings(cgroup, logind)
    assert "KillUserProcesses=yes" in warning
    assert "systemd-run --user --scope" in warning


def test_why_it_ended_and_where_the_output_is_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    begin(storage).stop()
    write_launch(storage, ID, launcher="local", settings={}, words=(), version="0.1.0")
    write_started(storage, ID, launcher="local", job=job(dead_process()))
    remember(ID, home=str(storage.root), launcher="local", job=job(dead_process()), s3=S3Settings())
    why = "exit code 77, not started again: dbr: black-forest/x is gated. Accept its terms at https://huggingface.co/x"
    post_note(storage, "exit", why, values={"launch": ID, "exit_code": 77})
    assert main(["status", str(storage.root)]) == 0
    page = capsys.readouterr().out
    assert why in page
    assert f"dbr logs {storage.root}" in page
    assert f"next: dbr resume {storage.root}" in page
    assert main(["launch", "list"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert str(storage.root) in row
    assert "ended" in row


def test_the_state_folder_is_ours_alone_when_nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert launch_folder(ID) == tmp_path / ".local" / "state" / "dreambooth_resume" / "launches" / ID
    assert not os.path.exists(launch_folder(ID))


def test_a_supervisor_that_begins_with_interrupts_ignored_hears_of_one_all_the_same() -> None:
    """As a shell starts what it puts in the background."""
    listens = "import signal, time; time.sleep(0.5); signal.signal(signal.SIGINT, signal.SIG_DFL); time.sleep(60)"
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-c", listens]
    with subprocess.Popen(command) as child:
        try:
            _wait_until(lambda: _ignores_interrupts(child.pid))
            say("waiting")
            assert LAUNCHER.interrupt(job(process_with(child.pid)))
            assert child.wait(20) == -signal.SIGINT
        finally:
            child.kill()


def _ignores_interrupts(pid: int) -> bool:
    (mask,) = re.findall(r"^SigIgn:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(mask, 16) >> (signal.SIGINT - 1) & 1)


def _wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
