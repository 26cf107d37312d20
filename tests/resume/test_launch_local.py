"""`dbr launch local` through real processes: whatever is killed, the run ends in the bytes of one that was not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.launch.base import Job
from dreambooth_resume.launch.local import LocalLauncher, LocalSettings
from dreambooth_resume.launch.queue import waiting_turn
from dreambooth_resume.launch.record import read_launches
from dreambooth_resume.launch.state_folder import state_folder
from dreambooth_resume.runs.entries import Adopt, Process
from dreambooth_resume.runs.history import read_history
from dreambooth_resume.runs.holder import is_known_gone
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.notes import read_notes
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from tests.resume.conftest import Undisturbed
from tests.resume.harness import TIMEOUT_SECONDS, Bench, result_digests, shown_step
from tests.resume.s3_home import S3Home

LENGTH = {"max_train_steps": 24, "checkpointing_steps": 4}
LAUNCHER = LocalLauncher(LocalSettings())


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def wait_for(reached: Callable[[], bool], what: str, output: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not reached():
        assert time.monotonic() < deadline, f"never came to {what}:\n{output()[-3000:]}"
        time.sleep(0.02)


def job_of(storage: Storage) -> Job:
    job = read_launches(storage)[-1].job
    assert job is not None
    return job


def trainer_of(storage: Storage, attempt: int) -> Process | None:
    """The process that began this attempt, once it has."""
    for entry in read_log(storage).entries:
        if isinstance(entry.body, Adopt) and entry.attempt == attempt:
            return entry.body.process
    return None


def output(storage: Storage) -> str:
    lines = LAUNCHER.logs(job_of(storage), follow=False)
    return "\n".join(lines or ())


def state(storage: Storage) -> str:
    return LAUNCHER.look(job_of(storage)).state


def kill(process: Process | None) -> None:
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(400)  # three trainings in real processes
def test_without_the_pictures_killed_trainer_and_killed_supervisor_end_in_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, storage = s3_home.uri, s3_home.storage
    s3 = ["--s3-endpoint-url", s3_home.server_url]
    pictures = tmp_path / "pictures"
    shutil.copytree(bench.pictures, pictures)
    words = bench.words(tmp_path / "stage", instance_data_dir=pictures, **LENGTH, **s3_home.options())
    # What the launch put into the bucket is enough to begin.
    with waiting_turn(state_folder(), (), told_to_leave=lambda: False, tell=print):
        assert main(["launch", "local", *words]) == 0
        shutil.rmtree(pictures)
    assert "dbr logs" in capsys.readouterr().out
    wait_for(lambda: shown_step(output(storage)) >= 5, "step 5", lambda: output(storage))
    kill(trainer_of(storage, 1))
    wait_for(lambda: trainer_of(storage, 2) is not None, "the next attempt", lambda: output(storage))
    (note,) = read_notes(storage, "exit")
    assert note.text.startswith("killed by signal 9 after step ")
    # The supervisor: the training goes on alone, and everybody says so.
    kill(Process.model_validate_json(job_of(storage).values["process"]))
    wait_for(lambda: state(storage) == "ended", "the supervisor's end")
    assert main(["launch", "local", *words]) == 75, "it is trained, though not supervised"
    capsys.readouterr()
    assert main(["status", home, "--json", *s3]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["launched"]["status"]["state"] == "ended"
    assert status["summary"]["state"] in ("starting", "running")
    orphan = trainer_of(storage, 2)
    kill(orphan)
    wait_for(lambda: orphan is not None and is_known_gone(orphan), "the training's end")
    assert main(["status", home, *s3]) == 0
    page = capsys.readouterr().out
    assert "vanished" in page
    assert f"next: dbr resume {home}" in page
    assert main(["resume", home, *s3]) == 0
    wait_for(lambda: state(storage) == "ended", "the end", lambda: output(storage))
    assert LAUNCHER.look(job_of(storage)).exit_code == 0, output(storage)
    assert result_digests(storage) == undisturbed(**LENGTH)
    assert [attempt.ending for attempt in read_history(storage)] == ["lost", "lost", "finished"]
    # The machine's own file is gone with the machine: the copy in the home is shown.
    shutil.rmtree(state_folder() / "launches")
    capsys.readouterr()
    assert main(["logs", home, *s3]) == 0
    assert f"Finished: step {LENGTH['max_train_steps']} of {LENGTH['max_train_steps']}" in capsys.readouterr().out


def test_a_run_that_waits_for_its_turn_is_seen_and_stopped(
    bench: Bench, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, storage = bench.words(home, **LENGTH), LocalStorage(home)
    with waiting_turn(state_folder(), (), told_to_leave=lambda: False, tell=print):
        assert main(["launch", "local", *words]) == 0
        wait_for(lambda: state(storage) == "waiting", "the queue", lambda: output(storage))
        assert main(["launch", "local", *words]) == 75
        capsys.readouterr()
        assert main(["status", str(home)]) == 0
        assert "waits for its turn on this machine" in capsys.readouterr().out
        assert main(["runs", str(home.parent)]) == 0
        assert re.search(rf"{home} +launched ", capsys.readouterr().out), "it is a run, though nothing is written"
        assert main(["launch", "list"]) == 0
        assert "waiting" in capsys.readouterr().out
        assert main(["stop", str(home)]) == 0
        assert "Told pid" in capsys.readouterr().out
        wait_for(lambda: state(storage) == "ended", "the end", lambda: output(storage))
    assert LAUNCHER.look(job_of(storage)).exit_code == 76, output(storage)
    assert not (home / "run.json").exists(), "nothing was trained"
    assert main(["logs", str(home)]) == 0
    assert "Waiting for its turn" in capsys.readouterr().out
