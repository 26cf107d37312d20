"""`dbr supervise` around trainings that are really killed: what the launchers send, a training that always crashes."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from dreambooth_resume.cli.main import main
from dreambooth_resume.errors import HolderAlive
from dreambooth_resume.launch.record import read_launches
from dreambooth_resume.runs.history import read_history
from dreambooth_resume.runs.notes import read_notes
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.launch import prepare, start
from tests.fakes.hub_jobs_server import FakeJobs, running_jobs
from tests.fakes.platform_programs import FakeProgram, fake_kubectl, fake_sky
from tests.resume.conftest import Undisturbed
from tests.resume.faults import fault
from tests.resume.forked_trainings import PRELUDE
from tests.resume.harness import Bench, Process, log_of, result_digests, shown_step
from tests.resume.s3_home import S3Home

pytestmark = pytest.mark.timeout(300)

LENGTH = {"max_train_steps": 12, "checkpointing_steps": 2}
# By this name the model is one of the Hub where a launch looks, and a folder of the machines.
MODEL = "tests/tiny-sdxl"
IN_KUBERNETES = ("kubernetes", "--image", "example/dbr:1")
SOON = {
    "dreambooth_resume.launch.entrypoint:_LOOK_SECONDS": 0.02,
    "dreambooth_resume.launch.restart_rule:FIRST_WAIT_SECONDS": 0.01,
}


class Machine:
    """One that runs a command of `dbr`, and may be lost with all that runs on it."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench, self._folder = bench, folder
        (folder / MODEL).parent.mkdir(parents=True)
        (folder / MODEL).symlink_to(bench.model)

    def run(
        self, words: Sequence[str], home: Path | None = None, faults: Sequence[Mapping[str, object]] = ()
    ) -> Process:
        log = self._folder / "output.log"
        log.touch()
        told = {
            "argv": list(words),
            "log": str(log),
            "cwd": str(self._folder),
            "home": str(home or self._folder),
            "limits": SOON,
            "faults": list(faults),
            "prelude": PRELUDE,
            "environment": {"XDG_STATE_HOME": str(self._folder / "state")},
        }
        return Process(self._bench.server, self._bench.server.ask(told)["pid"], log)

    def lose(self, process: Process) -> None:
        for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            one.kill()
        assert process.wait() == -signal.SIGKILL


@dataclass(frozen=True, kw_only=True)
class Platforms:
    """Three that start nothing, and keep what they were told to start."""

    sky: FakeProgram
    kubectl: FakeProgram
    hub: FakeJobs

    def sent(self, where: str) -> list[list[str]]:
        """The words behind `dbr` of each job."""
        if where == "skypilot":
            return [shlex.split(job["envs"]["DBR_WORDS"]) for job in _texts(self.sky)]
        if where == "hf-jobs":
            return [shlex.split(job["environment"]["DBR_WORDS"]) for job in self.hub.jobs.values()]
        return [job["spec"]["template"]["spec"]["containers"][0]["args"] for job in _texts(self.kubectl)]

    def end_all(self) -> None:
        """They give up every job of theirs."""
        self.sky.set(jobs={name: {**job, "status": "FAILED"} for name, job in self.sky.jobs.items()})
        for job in self.hub.jobs.values():
            job["stage"] = "ERROR"


@pytest.fixture
def platforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platforms]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    sky, kubectl = fake_sky(tmp_path, monkeypatch), fake_kubectl(tmp_path, monkeypatch)
    with running_jobs(monkeypatch) as hub:
        yield Platforms(sky=sky, kubectl=kubectl, hub=hub)


def _texts(program: FakeProgram) -> list[Any]:
    return [yaml.safe_load(job["text"]) for job in program.jobs.values()]


def launch_words(bench: Bench, folder: Path, home: S3Home) -> list[str]:
    model = {"pretrained_model_name_or_path": MODEL, "output_dir": None, "resume": None}
    return bench.words(folder, **LENGTH, **model, **home.options())


def test_a_run_that_goes_from_one_launcher_to_the_next_ends_in_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, platforms: Platforms, tmp_path: Path
) -> None:
    """Each machine does just what its launcher had sent, and all but the last are lost."""
    resume = ["resume", s3_home.uri, "--s3-endpoint-url", s3_home.server_url, "--on"]
    launches = {
        "skypilot": ["launch", "skypilot", *launch_words(bench, tmp_path, s3_home)],
        "hf-jobs": [*resume, "hf-jobs"],
        "kubernetes": [*resume, *IN_KUBERNETES],
    }
    for where, durable_step in (("skypilot", 2), ("hf-jobs", 6), ("kubernetes", None)):
        assert main(launches[where]) == 0
        [words] = platforms.sent(where)
        assert words[:2] == ["supervise", s3_home.uri]
        machine = Machine(bench, tmp_path / where)
        supervisor = machine.run([*words, "--stage_dir", "stage"])
        if durable_step is None:
            assert supervisor.wait() == 0, supervisor.output()
        else:
            supervisor.wait_for(partial(shows, supervisor, f"durable {durable_step} "), f"step {durable_step}")
            machine.lose(supervisor)
            platforms.end_all()
    assert result_digests(s3_home.storage) == undisturbed(**LENGTH)
    assert [attempt.ending for attempt in read_history(s3_home.storage)] == ["lost", "lost", "finished"]


def shows(process: Process, text: str) -> bool:
    return text in process.output()


def test_of_two_launches_at_the_same_instant_one_is_refused_and_two_machines_of_the_other_make_one_run(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, platforms: Platforms, tmp_path: Path
) -> None:
    """A platform may start its one machine twice: the one trains, the other waits and finds the run finished."""
    where, *own = IN_KUBERNETES
    both = [prepare(where, [*own, *launch_words(bench, tmp_path, s3_home)]) for _ in range(2)]
    start(both[0], print)
    with pytest.raises(HolderAlive, match="was launched already"):
        start(both[1], print)
    assert len(read_launches(s3_home.storage)) == 1
    [words] = platforms.sent("kubernetes")
    machines = [
        Machine(bench, tmp_path / f"machine-{number}").run([*words, "--stage_dir", "stage"]) for number in range(2)
    ]
    codes = [process.wait() for process in machines]
    assert codes == [0, 0], [process.output() for process in machines]
    assert result_digests(s3_home.storage) == undisturbed(**LENGTH)
    steps = [entry.body.step for entry in log_of(s3_home.storage).entries if entry.body.kind == "checkpoint"]
    assert len(steps) == len(set(steps)), "no step was trained twice"


def test_a_training_that_always_crashes_at_one_step_is_given_up_and_said_and_goes_on_once_it_is_mended(
    bench: Bench, undisturbed: Undisturbed, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(bench, home.parent / "machine")
    words = ["supervise", *bench.words(home, **LENGTH)]
    supervisor = machine.run(words, home, [fault("crash", step=5, saved=4)])
    assert supervisor.wait() == 78, supervisor.output()
    told = supervisor.output()
    assert "3 crashes on this machine with the run at step 4 (killed by signal 11 at last)" in told
    assert "starting again one commit back, from step 2" in told
    assert "and going one commit back did not help. Go on by hand from an earlier step, or report it." in told
    assert shown_step(told) == 5, "as far as it ever came"
    storage = LocalStorage(home)
    attempts = read_history(storage)
    assert [attempt.ending for attempt in attempts] == ["lost"] * 4
    assert [attempt.base_step for attempt in attempts] == [0, 4, 4, 2]
    crashes = [note for note in read_notes(storage, "exit") if "code" in note.values]
    assert [note.values["durable_step"] for note in crashes] == [4] * 4
    [last] = [note for note in read_notes(storage, "exit") if note not in crashes]
    assert last.text.startswith("not started again: 3 crashes on this machine with the run at step 4")
    assert main(["history", str(home)]) == 0
    assert "killed by signal 11 after step 4 was saved: step 5/12" in capsys.readouterr().out
    bench.run(home, **LENGTH)
    assert result_digests(home) == undisturbed(**LENGTH)
