"""When an attempt that ended is started again: decided from exit codes and the log alone."""

from __future__ import annotations

import pytest

from dreambooth_resume.launch.restart_rule import (
    LONGEST_WAIT_SECONDS,
    RESTARTS_WITHOUT_PROGRESS,
    Ending,
    decide,
)
from dreambooth_resume.runs.log import Log, read_log
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin

KILLED = -9


def ends(*endings: tuple[int, int]) -> list[Ending]:
    return [Ending(code=code, durable_step=step) for code, step in endings]


def log_at(*steps: int) -> Log:
    storage = MemoryStorage()
    attempt = begin(storage)
    for step in steps:
        attempt.commit(step)
    return read_log(storage)


@pytest.mark.parametrize("code", [75, 70, KILLED, -15, -11])
def test_started_again(code: int) -> None:
    verdict = decide(ends((code, 0)), Log())
    assert verdict.action == "restart"
    assert verdict.wait_seconds == 2.0


@pytest.mark.parametrize("code", [0, 2, 76, 77, 78, 79, 1, 127])
def test_never_started_again(code: int) -> None:
    verdict = decide(ends((75, 0), (code, 0)), Log())
    assert (verdict.action, verdict.exit_code) == ("end", code)


def test_waits_grow_up_to_a_bound_and_begin_anew_with_progress() -> None:
    stuck = ends(*[(75, 2)] * 20)
    assert decide(stuck[:3], Log()).wait_seconds == 8.0
    assert decide(stuck, Log()).wait_seconds == LONGEST_WAIT_SECONDS
    assert decide([*stuck, *ends((75, 4))], Log()).wait_seconds == 2.0


def test_three_crashes_at_one_step_go_one_commit_back() -> None:
    crashes = ends((KILLED, 2), (70, 2), (-11, 2))
    assert decide(crashes[:2], log_at(1, 2)).action == "restart"
    verdict = decide(crashes, log_at(1, 2))
    assert (verdict.action, verdict.step, verdict.request_id) == ("go back", 1, "poisoned-step-2")


def test_crashes_with_progress_in_between_are_not_poison() -> None:
    assert decide(ends((KILLED, 1), (KILLED, 2), (KILLED, 3)), log_at(1, 2, 3)).action == "restart"


def test_notices_and_storage_trouble_never_count() -> None:
    assert decide(ends(*[(75, 2)] * 10, (KILLED, 2), (75, 2), (KILLED, 2)), log_at(1, 2)).action == "restart"


def test_with_no_commit_before_it_ends_at_once() -> None:
    verdict = decide(ends(*[(70, 0)] * 3), Log())
    assert (verdict.action, verdict.exit_code) == ("end", 78)


def test_it_goes_back_once_and_a_further_poisoning_there_ends_it() -> None:
    storage = MemoryStorage()
    first = begin(storage)
    for step in (1, 2):
        first.commit(step)
    crashed = ends(*[(KILLED, 2)] * 3)
    verdict = decide(crashed, read_log(storage))
    back = begin(storage, "b", resume=str(verdict.step), request_id=verdict.request_id)
    again = decide([*crashed, *ends(*[(KILLED, 1)] * 3)], read_log(storage))
    assert (again.action, again.exit_code) == ("end", 78)
    assert "did not help" in again.because
    back.commit(2)
    further = decide([*crashed, *ends(*[(KILLED, 2)] * 3)], read_log(storage))
    assert (further.action, further.exit_code) == ("end", 78), "it came no further than before"
    back.commit(3)
    later = decide([*crashed, *ends(*[(KILLED, 3)] * 3)], read_log(storage))
    assert (later.action, later.step) == ("go back", 2), "another step is another matter"


def test_starts_without_progress_are_bounded() -> None:
    verdict = decide(ends(*[(75, 2)] * RESTARTS_WITHOUT_PROGRESS), log_at(1, 2))
    assert (verdict.action, verdict.exit_code) == ("end", 78), "75 would be started again by every platform"
    one = decide(ends((75, 2)), log_at(1, 2), in_a_row=RESTARTS_WITHOUT_PROGRESS)
    assert (one.action, one.exit_code) == ("end", 78), "a new supervisor for each start makes no difference"
    finished = decide(ends((0, 2)), log_at(1, 2), in_a_row=RESTARTS_WITHOUT_PROGRESS)
    assert (finished.action, finished.exit_code) == ("end", 0)
