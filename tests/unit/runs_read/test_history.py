"""Every attempt of a run, why it ended, and what that cost."""

from __future__ import annotations

import pytest

from dreambooth_resume.runs.checkpoints import find_checkpoint
from dreambooth_resume.runs.entries import Stopped
from dreambooth_resume.runs.history import Attempt, read_history
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.log import read_log
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin, state_of
from tests.fakes.watched_run import beat, dead_process, hold


def damage(storage: MemoryStorage, folder: str) -> None:
    storage.objects[f"{folder}/trainer_state.json"] = b"{}"


def endings(attempts: tuple[Attempt, ...]) -> list[str]:
    return [attempt.ending for attempt in attempts]


def test_an_empty_log_has_no_attempts() -> None:
    assert read_history(MemoryStorage()) == ()


def test_a_lost_attempt_is_charged_with_the_steps_that_the_next_one_repeats() -> None:
    storage = MemoryStorage()
    lost = begin(storage, "gpu-1")
    lost.commit(2)
    beat(storage, 1, step=3)
    begin(storage, "gpu-2").train_to_the_end()
    first, second = read_history(storage)
    assert (first.ending, first.base_step, first.reached_step, first.durable_step) == ("lost", 0, 3, 2)
    assert (first.redone_steps, first.exit_code, first.process.host) == (1, None, "gpu-1")
    assert (second.ending, second.base_folder, second.base_step, second.reached_step) == (
        "finished",
        "checkpoint-2",
        2,
        4,
    )
    assert second.redone_steps == 0
    assert second.checkpoints == ("checkpoint-3-a2", "checkpoint-4-a2")


def test_an_attempt_that_saved_and_left_costs_nothing() -> None:
    storage = MemoryStorage()
    left = begin(storage)
    left.commit(3)
    left.stop()
    begin(storage, "B")
    first = read_history(storage)[0]
    assert (first.ending, first.reason, first.exit_code, first.redone_steps) == ("stopped", "SIGTERM", 75, 0)


def test_the_newest_attempt_is_running_or_lost_by_its_process() -> None:
    storage = MemoryStorage()
    hold(storage, dead_process())
    assert endings(read_history(storage)) == ["lost"]
    hold(storage, this_process())
    attempts = read_history(storage)
    assert endings(attempts) == ["lost", "running"]
    assert attempts[1].ended_at is None


def test_a_lost_newest_attempt_is_charged_with_what_will_be_repeated() -> None:
    storage = MemoryStorage()
    begin(storage).commit(2)
    beat(storage, 1, step=4, phase="ended", exit_code=79)
    (only,) = read_history(storage)
    assert (only.ending, only.exit_code, only.redone_steps) == ("stopped", 79, 2)


def test_a_damaged_checkpoint_is_named_by_the_attempt_that_set_it_aside() -> None:
    storage = MemoryStorage()
    begin(storage).commit(2)
    begin(storage, "B").commit(3)
    damage(storage, "checkpoint-3-a2")
    begin(storage, "C").train_to_the_end()
    attempts = read_history(storage)
    # C adopted the damaged one, saw it, and adopted again.
    assert endings(attempts) == ["lost", "lost", "retried", "finished"]
    assert "checkpoint-3-a2 is damaged" in attempts[2].reason
    assert [aside.folder for aside in attempts[3].set_aside] == ["checkpoint-3-a2"]
    assert (attempts[1].redone_steps, attempts[2].redone_steps) == (0, 1)
    assert attempts[3].base_folder == "checkpoint-2"


def test_going_back_is_told_with_its_request() -> None:
    storage = MemoryStorage()
    first = begin(storage)
    first.commit(1)
    first.commit(2)
    first.stop()
    begin(storage, "B", resume="1", request_id="try again")
    attempts = read_history(storage)
    assert (attempts[1].going_back, attempts[1].base_step) == ("try again", 1)
    assert attempts[0].redone_steps == 1


def test_reopening_is_told() -> None:
    storage = MemoryStorage()
    begin(storage).train_to_the_end()
    begin(storage, "B", steps=6, reopen=True).train_to_the_end()
    attempts = read_history(storage)
    assert [attempt.reopened for attempt in attempts] == [False, True]
    assert endings(attempts) == ["finished", "finished"]


def test_what_a_command_took_the_run_for_is_no_training() -> None:
    storage = MemoryStorage()
    first = begin(storage)
    first.commit(1)
    first.commit(2)
    first.stop()
    writer = hold(storage, this_process())
    ref = find_checkpoint(writer.log, "1", where="")
    writer.append(lambda log: (Stopped(reason="delete", exit_code=0, retire=(ref.number,)), log.entries[-1].state))
    attempts = read_history(storage)
    assert endings(attempts) == ["stopped", "command"]


def test_steps_that_were_staged_are_not_repeated() -> None:
    storage = MemoryStorage()
    first = begin(storage)
    first.commit(2)
    beat(storage, 1, step=3)
    second = begin(storage, "B")
    second.step = 3
    second.committer.commit(state_of(3), "staged by attempt 1")
    assert read_history(storage)[0].redone_steps == 0


@pytest.mark.parametrize("torn", [b"", b"{", b'{"attempt": 1}'])
def test_a_torn_heartbeat_costs_precision_and_nothing_else(torn: bytes) -> None:
    storage = MemoryStorage()
    begin(storage).commit(2)
    storage.objects["status/0001.json"] = torn
    begin(storage, "B")
    assert (read_history(storage)[0].reached_step, read_log(storage).highest_attempt) == (2, 2)
