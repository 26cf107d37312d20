"""What people ask of a running attempt, as the loop answers it: on a toy state and a real home."""

from __future__ import annotations

import pytest

from dreambooth_resume.errors import Interrupted, StoppedOnPurpose, StorageUnavailable
from dreambooth_resume.preemption.requests import RequestSource
from dreambooth_resume.runs.control import open_requests, post_request
from dreambooth_resume.runs.entries import Stopped
from dreambooth_resume.runs.home import log_key
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.notice import Notice
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import check_home
from tests.fakes.toy_trainer import STEPS, Once, committed_steps, trainer_on

pytestmark = pytest.mark.quick


@pytest.fixture
def home() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def requests(home: MemoryStorage) -> RequestSource:
    ticks = iter(range(10_000))
    return RequestSource(home, monotonic=lambda: float(next(ticks)) * 100)


def storage_down(call: str, key: str) -> None:
    if not key.startswith("control/"):
        raise StorageUnavailable("503")


@pytest.mark.parametrize("asked_at", [1, 2, 3, 4])
def test_a_save_that_is_asked_for_is_made_at_that_step_or_later_and_the_request_goes(
    home: MemoryStorage, requests: RequestSource, asked_at: int
) -> None:
    """At steps 2 and 4 the interval's own save is in flight: a second entry would retire the first, files and all."""

    def at_step(step: int) -> None:
        if step == asked_at:
            post_request(home, "save")

    trainer = trainer_on(home, at_step=at_step, requests=requests, limit=1)
    trainer.run()
    trainer.manager.close()
    steps = committed_steps(home)
    assert sorted(set(steps)) == steps, "none twice"
    assert any(step >= asked_at for step in steps)
    assert steps[-1] == STEPS
    assert open_requests(home) == []
    check_home(home)


def test_a_save_that_is_asked_for_while_storage_is_down_stops_no_training(
    home: MemoryStorage, requests: RequestSource
) -> None:
    def at_step(step: int) -> None:
        if step == 1:
            post_request(home, "save")
            home.before = storage_down
        if step == STEPS:
            home.before = None

    trainer = trainer_on(home, at_step=at_step, requests=requests)
    trainer.run()
    trainer.manager.close()
    # What waited may still be committed between the storage's return and the last step's save.
    assert committed_steps(home) in ([STEPS], [1, STEPS])
    check_home(home)


def test_a_stop_that_is_asked_for_saves_says_goodbye_and_takes_the_request_away(
    home: MemoryStorage, requests: RequestSource
) -> None:
    def at_step(step: int) -> None:
        if step == 3:
            post_request(home, "stop")

    trainer = trainer_on(home, at_step=at_step, requests=requests)
    with pytest.raises(StoppedOnPurpose, match="step 3 of 6 is saved"):
        trainer.run()
    trainer.manager.close()
    last = read_log(home).last
    assert last is not None
    assert isinstance(last.body, Stopped)
    assert last.body.exit_code == 76
    assert open_requests(home) == []


def test_a_stop_that_comes_with_the_last_step_is_answered_by_the_end_and_stops_nobody_later(
    home: MemoryStorage,
) -> None:
    never_read = RequestSource(home, monotonic=lambda: 0.0)  # as within the ten seconds between two looks
    never_read.look()

    def at_step(step: int) -> None:
        if step == STEPS:
            post_request(home, "stop")

    trainer = trainer_on(home, at_step=at_step, requests=never_read)
    trainer.run()
    trainer.manager.close()
    assert committed_steps(home)[-1] == STEPS
    assert open_requests(home) == []


@pytest.mark.parametrize("exit_code", [75, 76])
def test_a_stop_that_was_not_read_yet_is_answered_by_an_end_that_nobody_restarts(
    home: MemoryStorage, exit_code: int
) -> None:
    never_read, source = RequestSource(home, monotonic=lambda: 0.0), Once()
    never_read.look()

    def at_step(step: int) -> None:
        if step == 3:
            post_request(home, "stop")
            source.said = Notice(source="a signal", exit_code=exit_code)

    trainer = trainer_on(home, at_step=at_step, source=source, requests=never_read)
    with pytest.raises((Interrupted, StoppedOnPurpose)):
        trainer.run()
    trainer.manager.close()
    assert len(open_requests(home)) == (1 if exit_code == 75 else 0), "who starts it again after 75 has to read it"


@pytest.mark.parametrize(("exit_code", "error"), [(75, Interrupted), (76, StoppedOnPurpose)])
def test_a_goodbye_that_cannot_be_written_does_not_change_the_exit_code(
    home: MemoryStorage, requests: RequestSource, exit_code: int, error: type[Exception]
) -> None:
    source = Once()

    def no_goodbye(call: str, key: str) -> None:
        if call == "put_if_absent" and key == log_key(3):  # 1: adopt, 2: the notice's save
            raise StorageUnavailable("503")

    def at_step(step: int) -> None:
        if step == 3:
            source.said = Notice(source="SIGINT", exit_code=exit_code)
            home.before = no_goodbye

    trainer = trainer_on(home, at_step=at_step, source=source, requests=requests, interval_steps=100)
    with pytest.raises(error):
        trainer.run()
    trainer.manager.close()
    home.before = None
    assert committed_steps(home) == [3]
