"""What the loop does with a notice that says when: a save, more steps, the end; never half a save."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

import pytest

from dreambooth_resume.data.batch import Batch
from dreambooth_resume.errors import Interrupted, StoppedOnPurpose, StorageUnavailable
from dreambooth_resume.preemption.requests import RequestSource
from dreambooth_resume.runs.entries import Stopped
from dreambooth_resume.runs.home import log_key
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.notice import Notice
from dreambooth_resume.training.step import HandsLate, StepMetrics
from dreambooth_resume.training.trainer import Trainer
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import check_home
from tests.fakes.toy_trainer import STEPS, Once, Told, committed_steps, trainer_on

pytestmark = pytest.mark.quick


@pytest.fixture
def home() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def requests(home: MemoryStorage) -> RequestSource:
    return RequestSource(home, monotonic=time.monotonic)


def notice(*, left_seconds: float) -> Notice:
    return Notice(source="AWS", exit_code=75, deadline_monotonic_s=time.monotonic() + left_seconds)


def test_a_notice_with_time_is_saved_for_and_training_goes_on(home: MemoryStorage, requests: RequestSource) -> None:
    source, told = Once(), Told()

    def at_step(step: int) -> None:
        if step == 2:
            source.said = notice(left_seconds=3600.0)

    trainer = trainer_on(home, at_step=at_step, source=source, requests=requests, interval_steps=100, told=told)
    trainer.run()
    trainer.manager.close()
    steps = committed_steps(home)
    assert steps[-1] == STEPS
    # The last step's save takes the place of one that still waits.
    assert steps in ([2, STEPS], [STEPS])
    assert "AWS, 3600 s left: saving step 2, training while there is time." in told.messages


def test_a_notice_whose_time_is_nearly_over_is_left_for(home: MemoryStorage, requests: RequestSource) -> None:
    source = Once()

    def at_step(step: int) -> None:
        if step == 2:
            source.said = notice(left_seconds=15.0)

    trainer = trainer_on(home, at_step=at_step, source=source, requests=requests, interval_steps=100)
    with pytest.raises(Interrupted, match="AWS: step 2 of 6 is saved"):
        trainer.run()
    trainer.manager.close()
    assert committed_steps(home) == [2]
    assert isinstance(read_log(home).entries[-1].body, Stopped)


def test_a_save_that_cannot_finish_is_given_up_at_the_deadline_and_nothing_half_of_it_counts(
    home: MemoryStorage, requests: RequestSource
) -> None:
    source = Once()

    def storage_down(call: str, key: str) -> None:
        if not key.startswith("control/"):
            raise StorageUnavailable("503")

    def at_step(step: int) -> None:
        if step == 2:
            home.before = storage_down
            source.said = notice(left_seconds=0.5)

    trainer = trainer_on(home, at_step=at_step, source=source, requests=requests, interval_steps=100)
    with pytest.raises(Interrupted, match="left without saving step 2; the last durable step is 0"):
        trainer.run()
    trainer.manager.close()
    home.before = None
    assert committed_steps(home) == []
    check_home(home)


def test_with_too_little_time_for_a_save_the_one_that_is_under_way_is_waited_for(
    home: MemoryStorage, requests: RequestSource
) -> None:
    source, told, is_saving, go_on = Once(), Told(), threading.Event(), threading.Event()

    def slow_commit(call: str, key: str) -> None:
        if call == "put_if_absent" and key == log_key(2):
            is_saving.set()
            assert go_on.wait(timeout=60)

    home.before = slow_commit

    def at_step(step: int) -> None:
        if step == 3:
            assert is_saving.wait(timeout=60), "step 2 is being saved"
            # Less than the 10 s that a save is thought to take before one was measured.
            source.said = notice(left_seconds=9.0)
            # It is let through once the loop has said that it waits for it.
            threading.Thread(target=let_through, daemon=True).start()

    def let_through() -> None:
        while not any("finishing step 2" in message for message in told.messages):
            time.sleep(0.001)
        go_on.set()

    trainer = trainer_on(home, at_step=at_step, source=source, requests=requests, told=told)
    with pytest.raises(Interrupted, match="AWS: step 2 of 6 is saved"):
        trainer.run()
    trainer.manager.close()
    assert committed_steps(home) == [2]


def test_advice_makes_saves_more_frequent_and_ends_nothing(home: MemoryStorage, requests: RequestSource) -> None:
    source, told = Once(), Told()

    def at_step(step: int) -> None:
        if step == 2:
            source.said = Notice(source="AWS rebalance recommendation", exit_code=75, is_advice=True)

    trainer = trainer_on(home, at_step=at_step, source=source, requests=requests, interval_steps=100, told=told)
    trainer.run()
    trainer.manager.close()
    assert committed_steps(home) == [STEPS]
    assert told.messages.count("AWS rebalance recommendation: saving every 15 s from now on.") == 1


def late_at(trainer: Trainer, step: int, said: Notice) -> None:
    """Let the update `step`, counted from 0, wait in vain for another process."""
    real = trainer.train_step

    def train_step(batch: Batch, *, before_update: Callable[[], None]) -> StepMetrics:
        if cast(int, batch) == step:
            raise HandsLate(said)
        return real(batch, before_update=before_update)

    trainer.train_step = train_step


def test_a_notice_while_another_process_is_late_is_left_for_with_the_step_before(
    home: MemoryStorage, requests: RequestSource
) -> None:
    trainer = trainer_on(home, at_step=lambda _step: None, requests=requests, interval_steps=100)
    late_at(trainer, 3, notice(left_seconds=60.0))
    with pytest.raises(Interrupted, match="AWS: step 3 of 6 is saved"):
        trainer.run()
    trainer.manager.close()
    assert committed_steps(home) == [3]
    last = read_log(home).entries[-1].body
    assert isinstance(last, Stopped)
    assert last.exit_code == 75


def test_a_notice_while_another_process_is_late_in_the_first_step_saves_nothing(
    home: MemoryStorage, requests: RequestSource
) -> None:
    trainer = trainer_on(home, at_step=lambda _step: None, requests=requests)
    late_at(trainer, 0, Notice(source="SIGINT", exit_code=76))
    with pytest.raises(StoppedOnPurpose, match="SIGINT in the first step: nothing was lost"):
        trainer.run()
    trainer.manager.close()
    assert committed_steps(home) == []
    assert read_log(home).entries[-1].body == Stopped(reason="SIGINT", exit_code=76), "the next attempt need not wait"
