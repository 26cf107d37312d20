"""Large states: their files are written side by side, and the promises are those of one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dreambooth_resume.checkpoint.commit import Committer
from dreambooth_resume.checkpoint.manager import CheckpointManager
from dreambooth_resume.errors import StorageUnavailable
from dreambooth_resume.runs.entries import Commit, Entry
from dreambooth_resume.runs.home import CHECKPOINT_FILES, STATE_NAME
from dreambooth_resume.runs.log import read_log
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import Attempt, ToyState, begin, check_home, export, state_of

pytestmark = pytest.mark.quick

_PATIENCE_SECONDS = 10.0


def committer(
    attempt: Attempt,
    *,
    limit: int | None = None,
    flush_metrics: Callable[[int], None] = lambda _step: None,
    side_by_side_bytes: int = 1,
) -> Committer:
    return Committer(
        attempt.storage,
        attempt.adopted.writer,
        export_weights=export,
        flush_metrics=flush_metrics,
        total_limit=limit,
        max_train_steps=attempt.max_train_steps,
        side_by_side_bytes=side_by_side_bytes,
    )


def test_all_files_are_on_their_way_at_once_and_the_entry_comes_after_them() -> None:
    home = MemoryStorage()
    attempt = begin(home)
    together = threading.Barrier(len(CHECKPOINT_FILES), timeout=_PATIENCE_SECONDS)

    def before(call: str, key: str) -> None:
        if call == "write" and key.startswith("checkpoint-"):
            together.wait()

    home.before = before
    flushed: list[int] = []
    entry = committer(attempt, flush_metrics=flushed.append).commit(state_of(1), "interval")
    calls = [call for call in home.calls if call[0] in ("write", "holds", "put_if_absent")]
    assert calls[-1] == ("put_if_absent", f"log/{entry.number:08d}.json")
    assert flushed == [1]
    check_home(home)


@pytest.mark.parametrize("side_by_side_bytes", [1, 2**40])
def test_what_its_steps_measured_is_there_before_a_checkpoint_is_whole(side_by_side_bytes: int) -> None:
    # A whole checkpoint without a log entry is taken up by the next attempt, whose own metrics begin behind it.
    home = MemoryStorage()
    attempt = begin(home)
    is_closed, closed_at_flush = threading.Event(), []

    def before(call: str, key: str) -> None:
        if call == "write" and key.endswith(f"/{STATE_NAME}"):
            is_closed.set()

    home.before = before

    def flush(_step: int) -> None:
        closed_at_flush.append(is_closed.wait(0.2))

    saving = committer(attempt, flush_metrics=flush, side_by_side_bytes=side_by_side_bytes)
    saving.commit(state_of(1), "interval")
    assert closed_at_flush == [False]
    assert is_closed.is_set()


@pytest.mark.parametrize("side_by_side_bytes", [1, 2**40])
def test_metrics_that_can_not_be_written_leave_no_whole_checkpoint(side_by_side_bytes: int) -> None:
    def refuse(_step: int) -> None:
        raise StorageUnavailable("503")

    home = MemoryStorage()
    attempt = begin(home)
    saving = committer(attempt, flush_metrics=refuse, side_by_side_bytes=side_by_side_bytes)
    with pytest.raises(StorageUnavailable, match="503"):
        saving.commit(state_of(1), "interval")
    assert not [key for key in home.objects if key.endswith(STATE_NAME)]
    assert [key for key in home.objects if key.startswith("checkpoint-1")]


def test_a_file_that_fails_ends_the_save_after_the_others_and_the_next_try_commits() -> None:
    home = MemoryStorage()
    attempt = begin(home)
    saving, written = committer(attempt), []

    def before(call: str, key: str) -> None:
        if call == "write" and key.endswith("pytorch_lora_weights.safetensors"):
            raise StorageUnavailable("503")
        if call == "holds" and key.startswith("checkpoint-"):
            written.append(key)

    home.before = before
    with pytest.raises(StorageUnavailable, match="503"):
        saving.commit(state_of(1), "interval")
    assert len(written) == len(CHECKPOINT_FILES) - 1
    assert not read_log(home).line
    home.before = None
    saving.commit(state_of(1), "interval")
    check_home(home)


def test_damage_to_one_file_is_seen_before_the_entry() -> None:
    home = MemoryStorage()
    attempt = begin(home)

    def before(call: str, key: str) -> None:
        if call == "holds" and key.endswith("trainer_state.safetensors"):
            home.objects[key] = home.objects[key][:-1] + b"!"

    home.before = before
    with pytest.raises(StorageUnavailable, match="damages data"):
        committer(attempt).commit(state_of(1), "interval")
    assert not read_log(home).line


def test_files_are_named_in_the_same_order_as_always() -> None:
    bodies = []
    for side_by_side in (True, False):
        attempt = begin(MemoryStorage())
        saving = committer(attempt) if side_by_side else attempt.committer
        entry = saving.commit(state_of(1), "interval")
        assert isinstance(entry.body, Commit)
        bodies.append(entry.body)
    assert bodies[0] == bodies[1]


def test_a_step_is_durable_before_what_it_retires_is_deleted() -> None:
    home = MemoryStorage()
    attempt = begin(home)
    saving = committer(attempt, limit=1)
    saving.commit(state_of(1), "interval")
    told: list[Entry] = []
    saving.commit(state_of(2), "interval", committed=told.append)
    (entry,) = told

    def before(call: str, _key: str) -> None:
        if call == "delete":
            assert told[-1].number == entry.number + 1

    home.before = before
    saving.commit(state_of(3), "interval", committed=told.append)
    assert len(told) == 2


def test_who_waits_for_a_step_does_not_wait_for_deletions() -> None:
    home = MemoryStorage()
    attempt = begin(home)
    is_told = threading.Event()

    def before(call: str, _key: str) -> None:
        if call == "delete":
            assert is_told.wait(_PATIENCE_SECONDS)

    manager = CheckpointManager(committer(attempt, limit=1), interval_steps=1, base=None)
    manager.start()
    state = ToyState(1)
    assert manager.save_now(state, reason="interval", give_up=lambda: False)
    home.before = before
    state.global_step = 2
    assert manager.save_now(state, reason="notice", give_up=lambda: False)
    assert (manager.durable_step, manager.newest and manager.newest.step) == (2, 2)
    is_told.set()
    manager.close()
