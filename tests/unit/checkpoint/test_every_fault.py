"""Adopt, two commits with a retirement, and the end: each call of it goes wrong in each way, and nothing is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

import pytest

from dreambooth_resume.errors import CheckpointDamaged, DbrError, StorageUnavailable
from dreambooth_resume.runs.entries import Commit
from dreambooth_resume.runs.log import read_log
from tests.fakes.faulty_storage import Died, Fault, FaultyStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin, check_finished, check_home, run_to_the_end

pytestmark = pytest.mark.quick

LIMIT = 1
Answer = TypeVar("Answer")


def first_life(home: MemoryStorage) -> None:
    """What was there before: one committed step."""
    begin(home, "A", limit=LIMIT).commit()


def second_life(storage: FaultyStorage) -> None:
    """A whole attempt, as the program runs it: after storage trouble the start, a save or the end is tried again."""
    attempt = _again(lambda: begin(storage, "B", limit=LIMIT))
    while attempt.step < attempt.max_train_steps:
        step = attempt.step + 1
        _again(partial(attempt.commit, step))
    _again(attempt.finish)


def _again(act: Callable[[], Answer]) -> Answer:
    try:
        return act()
    except StorageUnavailable:
        return act()


@cache
def calls_of_an_undisturbed_life() -> int:
    home = MemoryStorage()
    first_life(home)
    storage = FaultyStorage(home)
    second_life(storage)
    check_finished(home)
    return storage.count


@pytest.mark.parametrize("fault", [Fault.FAILS, Fault.LOST_ANSWER, Fault.LANDS_LATE], ids=lambda fault: fault.name)
def test_storage_that_fails_once_at_any_call_costs_nothing(fault: Fault) -> None:
    for at in range(1, calls_of_an_undisturbed_life() + 1):
        home = MemoryStorage()
        first_life(home)
        storage = FaultyStorage(home, at=at, fault=fault)
        second_life(storage)
        storage.land()
        assert storage.went_wrong is not None
        check_finished(home)


@pytest.mark.parametrize(
    "fault", [Fault.DIES_BEFORE, Fault.DIES_AFTER, Fault.DIES_AND_LANDS], ids=lambda fault: fault.name
)
def test_a_process_that_ends_at_any_call_loses_no_committed_step(fault: Fault) -> None:
    for at in range(1, calls_of_an_undisturbed_life() + 1):
        home = MemoryStorage()
        first_life(home)
        storage = FaultyStorage(home, at=at, fault=fault)
        with pytest.raises(Died):
            second_life(storage)
        before = newest_committed_step(home)
        check_home(home)
        assert before >= 1
        storage.land()
        check_home(home)
        run_to_the_end(home, "C", limit=LIMIT)
        storage.land()
        check_finished(home)


def test_a_late_request_that_lands_in_the_next_attempts_life_spoils_nothing() -> None:
    """The dead machine's last request arrives before each call of the attempt that took over."""
    for at in range(1, calls_of_an_undisturbed_life() + 1):
        landing = 1
        while True:
            home = MemoryStorage()
            first_life(home)
            dead = FaultyStorage(home, at=at, fault=Fault.DIES_AND_LANDS)
            with pytest.raises(Died):
                second_life(dead)
            calls = 0

            def land(_call: str, _key: str) -> None:
                nonlocal calls
                calls += 1
                if calls == landing:  # noqa: B023
                    dead.land()  # noqa: B023

            home.before = land
            run_to_the_end(home, "C", limit=LIMIT)
            home.before = None
            check_finished(home)
            landing += 7  # every call takes twenty times as long and finds nothing more
            if landing > calls:
                break


def test_data_damaged_on_its_way_is_found_before_it_is_committed() -> None:
    for at in range(1, calls_of_an_undisturbed_life() + 1):
        home = MemoryStorage()
        first_life(home)
        storage = FaultyStorage(home, at=at, fault=Fault.DAMAGES)
        second_life(storage)
        if (storage.went_wrong or "").startswith("write checkpoint-"):
            check_finished(home)


def test_a_failing_storage_never_ends_in_a_bug() -> None:
    """Without a second try, each failure is an error that says what happened, with its exit code."""
    for fault in (Fault.FAILS, Fault.LOST_ANSWER, Fault.LANDS_LATE):
        for at in range(1, calls_of_an_undisturbed_life() + 1):
            home = MemoryStorage()
            first_life(home)
            storage = FaultyStorage(home, at=at, fault=fault)
            with contextlib.suppress(DbrError):
                attempt = begin(storage, "B", limit=LIMIT)
                attempt.train_to_the_end()
            check_home(home)
            run_to_the_end(home, "C", limit=LIMIT)
            check_finished(home)


def newest_committed_step(home: MemoryStorage) -> int:
    log = read_log(home)
    steps = [entry.body.step for entry in log.entries if isinstance(entry.body, Commit) and log.is_usable(entry.number)]
    return max(steps, default=0)


def test_the_checks_above_would_notice_a_loss() -> None:
    home = MemoryStorage()
    first_life(home)
    home.objects["checkpoint-1/trainer_state.json"] = b""
    with pytest.raises(CheckpointDamaged):
        check_home(home)
