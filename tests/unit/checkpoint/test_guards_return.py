"""Where a guard goes back to and what the log keeps of it (DESIGN: rule 10), on a run without model and machine."""

from __future__ import annotations

import pytest

from dreambooth_resume.checkpoint.format import SavedState
from dreambooth_resume.checkpoint.reader import load_checkpoint
from dreambooth_resume.errors import Fenced
from dreambooth_resume.runs.adoption import Adoption, Wish, take_over
from dreambooth_resume.runs.entries import SkippedSteps
from dreambooth_resume.runs.log import Log, read_log
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import STEPS, TAKE_OVER, adopt, begin, check_home, machine

pytestmark = pytest.mark.quick


@pytest.fixture
def home() -> MemoryStorage:
    return MemoryStorage()


def window(first: int, last: int = 3, number: int = 1) -> SkippedSteps:
    return SkippedSteps(number=number, first=first, last=last, why="the loss is nan")


def go_back(home: MemoryStorage, skipped: SkippedSteps, *, name: str = "A") -> Adoption[SavedState]:
    adopted: Adoption[SavedState] | Log = take_over(
        home,
        Wish(max_train_steps=STEPS, rolled_back=skipped),
        load=lambda ref: load_checkpoint(home, ref),
        process=machine(name),
        patience=TAKE_OVER,
    )
    assert isinstance(adopted, Adoption)
    return adopted


def run_to_three(home: MemoryStorage, *, limit: int | None = None) -> None:
    attempt = begin(home, limit=limit)
    for _ in range(3):
        attempt.commit()


def base_step(adopted: Adoption[SavedState]) -> int:
    return adopted.base.step if adopted.base else 0


def test_it_goes_back_to_the_newest_checkpoint_without_the_steps_that_led_there(home: MemoryStorage) -> None:
    run_to_three(home)
    assert base_step(go_back(home, window(3))) == 3
    assert base_step(go_back(home, window(2, number=2))) == 2
    assert base_step(go_back(home, window(0, number=3))) == 0
    log = check_home(home)
    assert [one.number for one in log.entries[-1].state.skipped] == [1, 2, 3]
    assert log.usable_line() == ()


def test_where_everything_before_the_window_was_retired_the_oldest_that_is_left_is_taken(home: MemoryStorage) -> None:
    run_to_three(home, limit=2)
    assert base_step(go_back(home, window(1))) == 2


def test_a_damaged_checkpoint_on_the_way_is_set_aside_and_the_window_kept_once(home: MemoryStorage) -> None:
    run_to_three(home)
    del home.objects["checkpoint-3/trainer_state.json"]
    adopted = go_back(home, window(3))
    assert base_step(adopted) == 2
    assert [one.folder for one in adopted.set_aside] == ["checkpoint-3"]
    assert read_log(home).entries[-1].state.skipped == (window(3),)


def test_what_is_skipped_stays_so_in_every_later_entry(home: MemoryStorage) -> None:
    run_to_three(home)
    go_back(home, window(3))
    attempt = begin(home, "B")
    assert attempt.log.entries[-1].state.skipped == (window(3),)
    assert attempt.commit().state.skipped == (window(3),)
    # A crash does not undo the return, and nobody goes back a second time for it.
    assert [entry.body.going_back for entry in attempt.log.entries if entry.body.kind == "adopt"][1:] == [
        "guard-1-step-4",
        None,
    ]


def test_who_was_taken_over_meanwhile_goes_back_nowhere(home: MemoryStorage) -> None:
    run_to_three(home)
    adopt(home, "B")
    entries = len(read_log(home).entries)
    with pytest.raises(Fenced, match="attempt 2 has taken this run over"):
        go_back(home, window(3), name="A")
    assert len(read_log(home).entries) == entries


def test_what_the_attempt_before_had_staged_is_not_taken_after_a_return(home: MemoryStorage) -> None:
    run_to_three(home)
    assert not go_back(home, window(3)).may_use_staged


def test_smaller_micro_batches_are_told_by_the_checkpoints_of_steps_that_were_computed_so(home: MemoryStorage) -> None:
    # A save that is under way when memory runs out is of an earlier step: who resumes it computes the steps up to that
    # one as they were computed.
    attempt = begin(home)
    attempt.committer.note_smaller_micro_batch(4, from_step=2, device_memory_bytes=None)
    attempt.committer.note_smaller_micro_batch(2, from_step=3, device_memory_bytes=None)
    told = []
    for _ in range(3):
        attempt.commit()
        smaller = read_log(home).entries[-1].state.smaller_micro_batch
        told.append(smaller and smaller.size)
    assert told == [None, 4, 2]
