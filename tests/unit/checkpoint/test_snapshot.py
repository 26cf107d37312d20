"""A snapshot is copied beside the training, and no update runs into a copy that is under way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from dreambooth_resume.checkpoint.manager import CheckpointManager
from dreambooth_resume.checkpoint.reader import load_checkpoint
from dreambooth_resume.checkpoint.snapshot import Bytes, Snapshot, Snapshotter
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import Commit
from dreambooth_resume.runs.log import read_log
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import ToyState, begin, same_state, state_of

pytestmark = pytest.mark.quick

PATIENCE_SECONDS = 10.0


class HeldCopy:
    """Copies half of each piece, and the rest once it is let go on."""

    def __init__(self) -> None:
        self.is_half_done = threading.Event()
        self.may_go_on = threading.Event()
        self.error: Exception | None = None

    def __call__(self, to: Bytes, live: Bytes) -> None:
        half = len(to) // 2
        np.copyto(to[:half], live[:half])
        self.is_half_done.set()
        assert self.may_go_on.wait(PATIENCE_SECONDS)
        if self.error is not None:
            raise self.error
        np.copyto(to[half:], live[half:])


@pytest.fixture
def held() -> Iterator[HeldCopy]:
    copy = HeldCopy()
    yield copy
    copy.may_go_on.set()


class Training:
    """The training thread of a test: `update` waits for the copy as the loop does, then changes the state."""

    def __init__(self, state: ToyState, wait_until_copied: Callable[[], None]) -> None:
        self.failure: BaseException | None = None
        self._state = state
        self._wait_until_copied = wait_until_copied

    def update_to(self, step: int) -> threading.Thread:
        thread = threading.Thread(target=self._update_to, args=(step,))
        thread.start()
        return thread

    def _update_to(self, step: int) -> None:
        try:
            self._wait_until_copied()
            self._state.train_to(step)
        except BaseException as error:
            self.failure = error


def holds(snapshot: Snapshot, step: int) -> bool:
    return same_state(snapshot.to_saved_state(), state_of(step))


def test_a_save_returns_before_the_copy_is_made_and_the_update_waits_for_it(held: HeldCopy) -> None:
    state = ToyState(1)
    taking = Snapshotter(state, copy_bytes=held)
    snapshot = taking.take()
    assert held.is_half_done.wait(PATIENCE_SECONDS)
    update = Training(state, taking.wait_until_copied).update_to(2)
    update.join(0.05)
    assert update.is_alive()
    assert torch.equal(state.tensors()["lora.w"], state_of(1).tensors["lora.w"])
    held.may_go_on.set()
    update.join(PATIENCE_SECONDS)
    assert holds(snapshot, 1)
    assert torch.equal(state.tensors()["lora.w"], state_of(2).tensors["lora.w"])


def test_a_state_that_is_changed_under_its_copy_is_never_saved_and_is_told_to_both_threads(held: HeldCopy) -> None:
    """What the test above would see without the wait: half of one step, half of the next."""
    state = ToyState(1)
    taking = Snapshotter(state, copy_bytes=held)
    snapshot = taking.take()
    assert held.is_half_done.wait(PATIENCE_SECONDS)
    state.train_to(2)
    held.may_go_on.set()
    for look in (taking.wait_until_copied, snapshot.to_saved_state, taking.take):
        with pytest.raises(RuntimeError, match="changed while it was copied"):
            look()
    torn = snapshot.memory.flat[0]
    assert not any(torch.equal(torn, torch.cat([*map(torch.flatten, ToyState(s).tensors().values())])) for s in (1, 2))


def test_the_step_and_the_scalars_are_those_of_the_moment_of_the_save(held: HeldCopy) -> None:
    state = ToyState(1)
    snapshot = Snapshotter(state, copy_bytes=held).take()
    state.global_step = 2  # the loop's next line; the tensors change in an update alone
    held.may_go_on.set()
    assert snapshot.to_saved_state().step == 1


def test_two_saves_of_one_step_never_copy_at_once(held: HeldCopy) -> None:
    """The first may have been withdrawn, and its memory is then the second's."""
    state = ToyState(1)
    taking = Snapshotter(state, copy_bytes=held)
    first = taking.take()
    assert held.is_half_done.wait(PATIENCE_SECONDS)
    taking.give_back(first)
    second: list[Snapshot] = []
    again = threading.Thread(target=lambda: second.append(taking.take()))
    again.start()
    again.join(0.05)
    assert second == []
    held.may_go_on.set()
    again.join(PATIENCE_SECONDS)
    assert holds(second[0], 1)
    assert second[0].memory is first.memory


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("CUDA error")])
def test_trouble_of_the_copy_is_raised_to_the_update_and_ends_the_saving(held: HeldCopy, error: Exception) -> None:
    held.error = error
    held.may_go_on.set()
    home = MemoryStorage()
    manager = CheckpointManager(begin(home).committer, interval_steps=1, base=None, copy_bytes=held)
    manager.start()
    state = ToyState(1)
    manager.save_in_background(state)
    with pytest.raises(type(error), match=str(error)):
        manager.wait_until_copied()
    with pytest.raises(type(error), match=str(error)):
        manager.save_now(state, reason="final", give_up=lambda: False)
    manager.close()
    assert not any(isinstance(entry.body, Commit) for entry in read_log(home).entries)


def test_a_final_save_waits_for_its_own_copy(held: HeldCopy) -> None:
    home = MemoryStorage()
    manager = CheckpointManager(begin(home).committer, interval_steps=1, base=None, copy_bytes=held)
    manager.start()
    asked: list[bool] = []

    def give_up() -> bool:
        asked.append(held.may_go_on.is_set())
        held.may_go_on.set()
        return False

    assert manager.save_now(ToyState(3), reason="final", give_up=give_up)
    manager.close()
    assert asked[0] is False, "nothing was committed before the copy was whole"
    assert same_state(load_checkpoint(home, ref_of(read_log(home), 2)), state_of(3))


def test_close_returns_when_nobody_reads_the_state_any_more(held: HeldCopy) -> None:
    manager = CheckpointManager(begin(MemoryStorage()).committer, interval_steps=1, base=None, copy_bytes=held)
    manager.save_in_background(ToyState(1))
    assert held.is_half_done.wait(PATIENCE_SECONDS)
    closing = threading.Thread(target=manager.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    held.may_go_on.set()
    closing.join(PATIENCE_SECONDS)
    assert not closing.is_alive()


def test_nothing_is_waited_for_before_the_first_save() -> None:
    manager = CheckpointManager(begin(MemoryStorage()).committer, interval_steps=1, base=None)
    manager.wait_until_copied()
    assert manager.pending_step is None
    manager.close()
