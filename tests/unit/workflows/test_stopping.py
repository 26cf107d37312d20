"""Whether a launch whose end nobody saw is found again, and a stop gives everything back that can be given back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.errors import HolderAlive, StoppedOnPurpose, StorageUnavailable
from dreambooth_resume.launch.base import Job, launch_name
from dreambooth_resume.launch.launchers import LAUNCHERS
from dreambooth_resume.launch.record import read_launches, write_launch, write_started
from dreambooth_resume.runs.control import open_requests, post_request
from dreambooth_resume.runs.entries import encode_entry
from dreambooth_resume.runs.home import log_key, note_key
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.holders import ANSWER_SECONDS, Waiting
from dreambooth_resume.workflows.one_launch import (
    forget_old_stops,
    refuse_a_second,
    refuse_if_stopped,
    take_back,
)
from dreambooth_resume.workflows.stopping import stop_run
from tests.contracts.launcher_cases import request_for
from tests.fakes.far_launcher import ENTRY, FarLauncher, FarSettings
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import beat, moment, record_run

ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FarLauncher]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setitem(LAUNCHERS, "far", ENTRY)
    FarLauncher.reset()
    return FarLauncher


@pytest.fixture
def home() -> MemoryStorage:
    return MemoryStorage()


def note(home: MemoryStorage | LocalStorage, launch_id: str = ONE, *, job: str | None = None) -> None:
    """A launch on `far`; without `job`, one that was begun and whose end nobody saw."""
    write_launch(home, launch_id, launcher="far", settings={}, words=(), version="1")
    if job is not None:
        write_started(home, launch_id, launcher="far", job=Job(name=job, values={}))


class Clock:
    """Passes by being slept on; calls `each` at every sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[str] = []
        self.each: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.each()

    @property
    def waiting(self) -> Waiting:
        return Waiting(tell=self.told.append, monotonic=lambda: self.now, sleep=self.sleep)


def test_a_launch_that_is_being_made_refuses_another_until_it_is_long_ago(home: MemoryStorage) -> None:
    note(home)
    with pytest.raises(HolderAlive, match=r"being launched already \(far, by .*dbr stop"):
        refuse_a_second(home)
    refuse_a_second(home, besides=ONE)
    text = home.read(note_key("launch", ONE)).decode()
    (launch,) = read_launches(home)
    home.write(note_key("launch", ONE), [text.replace(launch.written_at, moment(seconds_ago=7200)).encode()])
    refuse_a_second(home)


def test_a_job_that_was_started_and_can_not_be_noted_is_given_back(home: MemoryStorage) -> None:
    request, told = request_for("s3://bucket/dog"), list[str]()
    note(home, request.launch_id)
    take_back(home, request, FarLauncher(FarSettings()), Job(name="machine 7", values={}), told.append)
    assert FarLauncher.released == ["machine 7"]
    assert read_launches(home) == ()
    assert "machine 7 was started, and is given back" in told[0]


def test_a_job_that_can_not_be_given_back_keeps_its_note_and_is_said(
    home: MemoryStorage, far: type[FarLauncher]
) -> None:
    request, told = request_for("s3://bucket/dog"), list[str]()
    note(home, request.launch_id)
    far.silent = True
    take_back(home, request, FarLauncher(FarSettings()), Job(name="machine 7", values={}), told.append)
    assert "may cost money: far away does not answer" in told[-1]
    assert "dbr stop s3://bucket/dog" in told[-1]
    assert len(read_launches(home)) == 1


def test_a_home_that_is_gone_meanwhile_hides_neither_the_job_nor_the_first_error(home: MemoryStorage) -> None:
    request, told = request_for("s3://bucket/dog"), list[str]()

    def down(call: str, key: str) -> None:
        raise StorageUnavailable("503")

    home.before = down
    take_back(home, request, FarLauncher(FarSettings()), Job(name="machine 7", values={}), told.append)
    assert FarLauncher.released == ["machine 7"]
    assert "The note of this launch stays in the home" in told[-1]


def test_a_stop_finds_a_job_of_which_only_the_platform_knows(home: MemoryStorage, far: type[FarLauncher]) -> None:
    note(home)
    far.lost = launch_name(home.describe(), ONE)
    far.state = "waiting"
    done = stop_run(home, None, Clock().waiting)
    assert far.released == [far.lost]
    assert done.not_given_back == ()
    (launch,) = read_launches(home)
    assert launch.job is not None
    assert launch.job.name == far.lost, "from now on every command knows it"


def test_a_stop_forgets_a_launch_of_which_nothing_is_there_and_whoever_makes_it_hears_of_that(
    home: MemoryStorage,
) -> None:
    note(home)
    refuse_if_stopped(home, ONE)
    stop_run(home, None, Clock().waiting)
    assert read_launches(home) == ()
    with pytest.raises(StoppedOnPurpose, match="dbr stop ended this launch"):
        refuse_if_stopped(home, ONE)


def test_a_launch_without_a_job_is_something_to_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note(LocalStorage(tmp_path / "dog"))
    assert main(["stop", str(tmp_path / "dog")]) == 0
    assert "is given back" in capsys.readouterr().out


def test_a_platform_that_can_not_be_asked_keeps_nobody_from_being_stopped_and_is_said(
    tmp_path: Path, far: type[FarLauncher], capsys: pytest.CaptureFixture[str]
) -> None:
    home = LocalStorage(tmp_path / "dog")
    record_run(home)
    attempt = begin(home, "gpu-7")
    beat(home, 1)
    note(home, ONE, job="machine 6")
    note(home, TWO, job="machine 7")
    far.silent = True
    asked: list[str] = []
    clock = Clock()

    def leave() -> None:
        asked.extend(request.kind for _, request in open_requests(home))
        if asked:
            attempt.stop()
            clock.each = lambda: None

    clock.each = leave
    done = stop_run(home, summarise(home), clock.waiting)
    assert asked == ["stop"]
    assert len(done.not_given_back) == 2
    assert "machine 6 (far): far away does not answer" in done.not_given_back
    assert open_requests(home) == [], "what nobody waits for any more must not stop a later attempt"
    assert main(["stop", str(home.root)]) == 75
    assert "it may cost money: machine 7 (far)" in capsys.readouterr().err


def test_a_machine_with_another_clock_is_given_back_only_once_it_has_saved(
    home: MemoryStorage, far: type[FarLauncher]
) -> None:
    attempt = begin(home, "gpu-7")
    far.state = "running"
    note(home, job="machine 7")
    clock, beats = Clock(), 0

    def live() -> None:
        nonlocal beats
        beats += 1
        assert far.released == [], "destroyed while it saves"
        if clock.now < 100:
            beat(home, 1, seconds_ago=7200, counter=beats)
        else:
            attempt.commit(4)
            attempt.stop()
            clock.each = lambda: None

    two_hours_behind(home)
    beat(home, 1, seconds_ago=7200)
    clock.each = live
    summary = summarise(home)
    assert summary is not None
    assert summary.state == "vanished", "by our clock"
    done = stop_run(home, summary, clock.waiting)
    assert done.request is not None
    assert far.released == ["machine 7"]
    assert open_requests(home) == []


def fall_silent(home: MemoryStorage) -> None:
    def gone(_call: str, _key: str) -> None:
        raise StorageUnavailable("503")

    home.before = gone


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_home_that_does_not_answer_while_it_is_waited_for_keeps_no_machine(
    home: MemoryStorage, far: type[FarLauncher], comes_back: bool
) -> None:
    attempt = begin(home, "gpu-7")
    beat(home, 1)
    far.state = "running"
    note(home, job="machine 7")
    summary, clock = summarise(home), Clock()

    def pass_by() -> None:
        fall_silent(home)
        if comes_back and clock.now > 20:
            home.before = None
            attempt.commit(4)
            attempt.stop()
            clock.each = lambda: None

    clock.each = pass_by
    done = stop_run(home, summary, clock.waiting)
    assert done.not_given_back == ()
    assert (done.not_withdrawn is None) is comes_back
    assert comes_back or clock.now >= ANSWER_SECONDS, "it may have been saving"
    assert far.released == ["machine 7"]


def test_a_home_that_falls_silent_while_a_sign_of_life_is_waited_for_keeps_no_machine(
    home: MemoryStorage, far: type[FarLauncher]
) -> None:
    begin(home, "gpu-7")
    two_hours_behind(home)
    beat(home, 1, seconds_ago=7200)
    far.state = "running"
    note(home, job="machine 7")
    summary, clock = summarise(home), Clock()

    clock.each = lambda: fall_silent(home)
    assert stop_run(home, summary, clock.waiting).not_given_back == ()
    assert far.released == ["machine 7"]
    assert any("503" in told for told in clock.told)


def test_what_is_not_given_back_is_said_also_where_the_home_is_gone_in_the_end(
    home: MemoryStorage, far: type[FarLauncher], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(home, "gpu-7")
    beat(home, 1)
    note(home, job="machine 7")
    far.silent = True
    clock = Clock()
    clock.each = lambda: fall_silent(home)
    monkeypatch.setattr("dreambooth_resume.cli.stop.open_home", lambda _arguments: home)
    monkeypatch.setattr("dreambooth_resume.cli.stop.Waiting", lambda tell: replace(clock.waiting, tell=tell))
    assert main(["stop", "dog"]) == 75
    said = capsys.readouterr().err
    assert "Not given back, and it may cost money: machine 7 (far): far away does not answer" in said
    assert "then the next dbr train there ends with exit code 76, and the one after it goes on." in said
    assert "503" in said


def two_hours_behind(home: MemoryStorage) -> None:
    (entry,) = read_log(home).entries
    home.write(log_key(1), [encode_entry(entry.model_copy(update={"written_at": moment(seconds_ago=7200)}))])


def test_who_launches_a_run_is_not_stopped_by_what_was_asked_of_an_attempt_that_died(home: MemoryStorage) -> None:
    post_request(home, "stop")
    post_request(home, "save")
    forget_old_stops(home)
    assert [request.kind for _, request in open_requests(home)] == ["save"]
