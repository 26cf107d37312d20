"""What became of each checkpoint, and which one a user means."""

from __future__ import annotations

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.checkpoints import find_checkpoint, list_checkpoints
from dreambooth_resume.runs.log import Log
from tests.fakes.logs import adopt, commit, finished, log_of


def states(log: Log) -> dict[str, str]:
    return {info.folder: info.state for info in list_checkpoints(log)}


def test_each_checkpoint_is_in_one_state() -> None:
    log = log_of(
        adopt(),
        commit(10),
        commit(20),
        commit(30, retire=(2,)),
        adopt(3, set_aside=(4,)),
        commit(30, attempt=2),
        adopt(3, going_back="x"),
        commit(40, attempt=3),
    )
    assert states(log) == {
        "checkpoint-10": "retired",
        "checkpoint-20": "live",
        "checkpoint-30": "set aside",
        "checkpoint-30-a2": "gone back over",
        "checkpoint-40-a3": "live",
    }
    newest = [info.folder for info in list_checkpoints(log) if info.is_newest]
    assert newest == ["checkpoint-40-a3"]
    assert next(info.note for info in list_checkpoints(log) if info.folder == "checkpoint-30") == "damaged"


def test_the_result_of_a_finished_run_is_marked() -> None:
    log = log_of(adopt(), commit(10), commit(20), finished(3))
    assert [info.is_result for info in list_checkpoints(log)] == [False, True]


def test_of_a_reopened_run_only_the_newest_result_is_marked() -> None:
    log = log_of(adopt(), commit(10), finished(2), adopt(2), commit(20, attempt=2))
    assert [info.is_result for info in list_checkpoints(log)] == [True, False]
    log = log_of(*(entry.body for entry in log.entries), finished(5))
    assert [info.is_result for info in list_checkpoints(log)] == [False, True]


def test_a_step_means_the_one_on_the_line() -> None:
    log = log_of(adopt(), commit(10), commit(20), adopt(2, going_back="x"), commit(20, attempt=2))
    assert find_checkpoint(log, "20", where="").folder == "checkpoint-20-a2"
    assert find_checkpoint(log, "checkpoint-20", where="").folder == "checkpoint-20"


def test_a_step_that_only_checkpoints_off_the_line_have_must_be_named_in_full() -> None:
    log = log_of(adopt(), commit(10), commit(20), adopt(2), commit(20, attempt=2), adopt(2))
    with pytest.raises(BadInput) as raised:
        find_checkpoint(log, "20", where="runs/dog")
    assert raised.value.fix == "name one: checkpoint-20 or checkpoint-20-a2"


def test_what_is_not_there_is_answered_with_what_is() -> None:
    log = log_of(adopt(), commit(10), commit(20, retire=(2,)))
    with pytest.raises(BadInput, match="15 is no checkpoint") as raised:
        find_checkpoint(log, "15", where="runs/dog")
    assert raised.value.fix == "name one of checkpoint-20"
    with pytest.raises(BadInput, match="checkpoint-10 was retired"):
        find_checkpoint(log, "10", where="runs/dog")
    with pytest.raises(BadInput) as nothing:
        find_checkpoint(log_of(adopt()), "10", where="runs/dog")
    assert nothing.value.fix == "it has none yet"
