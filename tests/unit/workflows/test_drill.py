"""`dbr drill`: what it refuses, and what its stopwatch sees. Nothing real is interrupted here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import JsonValue

from dreambooth_resume.cli import drill as command
from dreambooth_resume.cli.main import main
from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.base import Job, Rehearsal
from dreambooth_resume.launch.launchers import LAUNCHERS
from dreambooth_resume.launch.record import write_launch, write_started
from dreambooth_resume.runs.entries import Process, Stopped
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.log import LogWriter
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.drill import Drill, Target, find_target
from tests.fakes.far_launcher import ENTRY, FarLauncher
from tests.fakes.toy_run import Attempt, begin, machine, state_of
from tests.fakes.watched_run import beat, dead_process, hold, record_run

pytestmark = pytest.mark.quick

LAUNCH = "a" * 32


class Script:
    """A launcher and a clock: with each second that passes, the next thing happens."""

    def __init__(self, *events: Callable[[], object]) -> None:
        self.now = 0.0
        self.asked: list[Rehearsal] = []
        self._events: Iterator[Callable[[], object]] = iter(events)

    def rehearse(self, job: Job, how: Rehearsal, *, holder: Process) -> str:
        self.asked.append(how)
        return "it was done"

    def sleep(self, _seconds: float) -> None:
        self.now += 1.0
        next(self._events, lambda: None)()

    def drill(self, home: LocalStorage, how: Rehearsal, *, process: Process) -> Drill:
        target = Target(launcher="local", job=Job(name="pid 7"), rehearses=self, attempt=1, process=process, step=3)
        return Drill(
            storage=home, target=target, how=how, tell=lambda _text: None, wait_seconds=20.0,
            monotonic=lambda: self.now, sleep=self.sleep,
        )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "dog")


@pytest.fixture
def first(home: LocalStorage) -> Attempt:
    """Attempt 1 has committed step 2 and made step 3."""
    record_run(home)
    first = begin(home, "A")
    first.commit(2)
    beat(home, 1, step=3)
    return first


def goes_on(home: LocalStorage) -> None:
    begin(home, "B")


def test_a_notice_is_timed_from_its_sign_to_the_first_new_step(home: LocalStorage, first: Attempt) -> None:
    def save() -> None:
        first.step = 4
        first.committer.commit(state_of(4), "SIGTERM")

    script = Script(
        lambda: beat(home, 1, step=4, phase="saving"),
        save,
        lambda: first.committer.append(Stopped(reason="SIGTERM", exit_code=75)),
        lambda: goes_on(home),
        lambda: beat(home, 2, step=4),
        lambda: beat(home, 2, step=5),
    )
    seen = script.drill(home, "notice", process=machine("A")).run()
    assert script.asked == ["notice"]
    assert (seen.noticed_seconds, seen.saved_seconds, seen.saved_step, seen.gone_seconds) == (1.0, 2.0, 4, 3.0)
    assert (seen.back_attempt, seen.back_seconds, seen.resumed_step, seen.first_step_seconds) == (2, 4.0, 4, 6.0)
    assert seen.steps_lost == 0
    assert seen.is_back


def test_a_kill_costs_the_steps_behind_the_last_save(home: LocalStorage, first: Attempt) -> None:
    script = Script(lambda: goes_on(home), lambda: beat(home, 2, step=3))
    seen = script.drill(home, "kill", process=dead_process()).run()
    assert (seen.noticed_seconds, seen.saved_seconds) == (None, None)
    assert (seen.gone_seconds, seen.back_seconds, seen.first_step_seconds) == (0.0, 1.0, 2.0)
    assert (seen.reached_step, seen.resumed_step, seen.steps_lost) == (3, 2, 1)


def test_a_run_that_does_not_come_back_is_waited_for_so_long_and_no_longer(
    home: LocalStorage, first: Attempt, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Script()
    seen = script.drill(home, "kill", process=dead_process()).run()
    assert not seen.is_back
    assert script.now == 20.0
    command._print(seen, wait_seconds=20.0)
    page = capsys.readouterr().out
    assert "IT DOES NOT TRAIN AGAIN after 20 s. What was saved is safe." in page
    assert f"dbr resume {home.root}" in page


def test_a_run_that_finishes_first_ends_the_watch(home: LocalStorage, first: Attempt) -> None:
    seen = Script(first.train_to_the_end).drill(home, "notice", process=machine("A")).run()
    assert seen.finished
    assert seen.is_back
    assert seen.back_attempt is None


@pytest.fixture
def held(home: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LogWriter:
    """A run that this process trains."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    record_run(home)
    writer = hold(home, this_process(), launch=LAUNCH)
    beat(home, 1, step=3, process=this_process())
    return writer


def launched(
    home: LocalStorage, launcher: str, settings: dict[str, JsonValue] | None = None, *, launch_id: str = LAUNCH
) -> None:
    write_launch(home, launch_id, launcher=launcher, settings=settings or {}, words=(), version="1")
    write_started(home, launch_id, launcher=launcher, job=Job(name="the job"))


def test_where_nothing_trains_it_is_refused(home: LocalStorage, first: Attempt) -> None:
    beat(home, 1, step=3, phase="ended", exit_code=75)
    with pytest.raises(BadInput, match="nothing trains there: interrupted"):
        find_target(home)


def test_what_was_not_launched_is_refused(home: LocalStorage, held: LogWriter) -> None:
    with pytest.raises(BadInput, match="was not launched, so nobody would start it again"):
        find_target(home)


@pytest.mark.parametrize("launcher", ["local", "slurm"])
@pytest.mark.parametrize("launch", [None, "b" * 32], ids=["by hand", "by an older launch"])
def test_a_training_that_the_newest_launch_did_not_start_is_left_alone(
    launch: str | None, launcher: str, home: LocalStorage, first: Attempt
) -> None:
    process = this_process()
    writer = hold(home, process, launch=launch)
    beat(home, writer.attempt, step=3, process=process)
    launched(home, launcher)
    with pytest.raises(BadInput, match="attempt 2 was not started by the newest launch") as refused:
        find_target(home)
    assert "dbr stop" in (refused.value.fix or "")


def test_a_launcher_without_a_rehearsal_is_refused(home: LocalStorage, held: LogWriter) -> None:
    launched(home, "kubernetes", {"image": "registry.example/dbr"})
    with pytest.raises(BadInput, match="no rehearsal on kubernetes"):
        find_target(home)


def test_it_asks_first_and_does_nothing_unasked(
    home: LocalStorage, held: LogWriter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(LAUNCHERS, "far", ENTRY)
    monkeypatch.setattr(FarLauncher, "rehearse", lambda *_: pytest.fail("nobody said yes"))
    launched(home, "far")
    assert main(["drill", str(home.root)]) == 2
    assert "interrupts a training for real, and nobody is there to be asked" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: "n" if "Attempt 1 trains at step 3" in question else "y")
    assert main(["drill", str(home.root)]) == 76
    assert "Nothing was done." in capsys.readouterr().out


def test_the_local_launcher_interrupts_nothing_that_nobody_would_start_again(
    home: LocalStorage, held: LogWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    write_launch(home, LAUNCH, launcher="local", settings={}, words=(), version="1")
    gone = Job(name="pid 1", values={"launch": LAUNCH, "process": dead_process().model_dump_json()})
    write_started(home, LAUNCH, launcher="local", job=gone)
    assert main(["drill", str(home.root), "--yes", "--json"]) == 2
    assert "its supervisor is gone, so nobody would start it again" in capsys.readouterr().err
    assert json.loads((home.root / "status" / "0001.json").read_text())["phase"] == "training"
