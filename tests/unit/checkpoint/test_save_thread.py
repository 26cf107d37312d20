"""The thread that saves, and the training loop's view of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dreambooth_resume.checkpoint.manager import CheckpointManager
from dreambooth_resume.checkpoint.snapshot import Snapshotter
from dreambooth_resume.checkpoint.writer import Job, SaveThread
from dreambooth_resume.errors import AccessDenied, Fenced, StorageUnavailable
from dreambooth_resume.runs.entries import Commit
from dreambooth_resume.runs.log import read_log
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import ToyState, begin, check_finished, check_home

pytestmark = pytest.mark.quick

PATIENCE_SECONDS = 10.0


def job(step: int) -> Job:
    return Job(snapshot=Snapshotter(ToyState(step)).take(), reason="interval")


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread, with a limit."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def never() -> bool:
    return False


class Gate:
    """A commit that waits to be let through, and fails as it is told."""

    def __init__(self) -> None:
        self.entered: list[int] = []
        self.committed: list[int] = []
        self.errors: list[BaseException] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, job: Job) -> None:
        self.entered.append(job.snapshot.step)
        assert self.open.wait(PATIENCE_SECONDS)
        if self.errors:
            raise self.errors.pop(0)
        self.committed.append(job.snapshot.step)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def thread(gate: Gate) -> Iterator[SaveThread]:
    saving = SaveThread(gate, retry_seconds=0.02)
    saving.start()
    yield saving
    gate.open.set()
    saving.close(timeout_seconds=PATIENCE_SECONDS)


def test_the_newest_snapshot_replaces_the_one_that_waits(gate: Gate, thread: SaveThread) -> None:
    gate.open.clear()
    thread.submit(job(1))
    until(lambda: gate.entered == [1])
    for step in (2, 3, 4):
        thread.submit(job(step))
    gate.open.set()
    assert thread.wait_until_durable(4, give_up=never)
    assert gate.committed == [1, 4]
    assert thread.durable_step == 4


def test_storage_trouble_is_an_alarm_is_tried_again_and_recovers(gate: Gate, thread: SaveThread) -> None:
    gate.errors = [StorageUnavailable("503"), AccessDenied("403"), StorageUnavailable("no space")]
    seen = set[str | None]()
    thread.submit(job(1))
    until(lambda: seen.add(thread.alarm) or thread.durable_step == 1)  # type: ignore[func-returns-value]
    assert gate.committed == [1]
    assert seen & {"503", "403", "no space"}
    assert thread.alarm is None
    thread.check()


def test_the_same_trouble_with_another_step_is_the_same_alarm(gate: Gate, thread: SaveThread) -> None:
    """Who shows alarms would say it again at every try."""
    first = "Could not write s3://b/dog/checkpoint-4/trainer_state.json (503)."
    gate.errors = [
        StorageUnavailable(first),
        StorageUnavailable("Could not write s3://b/dog/checkpoint-5/pytorch_lora_weights.safetensors (503)."),
        AccessDenied("No access."),
        StorageUnavailable(first),
    ]
    seen: list[str | None] = []

    def is_done() -> bool:
        seen.extend([thread.alarm] if not seen or thread.alarm != seen[-1] else [])
        return thread.durable_step == 1

    thread.submit(job(1))
    until(is_done)
    assert not any("checkpoint-5" in alarm for alarm in seen if alarm is not None)


def test_after_trouble_the_newest_snapshot_is_tried_and_not_the_one_that_failed(gate: Gate, thread: SaveThread) -> None:
    gate.open.clear()
    gate.errors = [StorageUnavailable("503")]
    thread.submit(job(1))
    until(lambda: gate.entered == [1])
    thread.submit(job(2))
    gate.open.set()
    assert thread.wait_until_durable(2, give_up=never)
    assert gate.committed == [2]


@pytest.mark.parametrize("error", [Fenced("attempt 2 has it"), ValueError("a bug"), SystemExit(3)])
def test_what_is_no_storage_trouble_ends_the_thread_and_is_raised(
    gate: Gate, thread: SaveThread, error: BaseException
) -> None:
    gate.errors = [error]
    thread.submit(job(1))
    with pytest.raises(type(error)):
        thread.wait_until_durable(1, give_up=never)
    for look in (thread.check, lambda: thread.submit(job(2))):
        with pytest.raises(type(error)):
            look()
    assert gate.committed == []


def test_a_final_save_waits_until_it_is_durable_or_gives_up(gate: Gate, thread: SaveThread) -> None:
    gate.open.clear()
    thread.submit(job(1))
    patience = iter([False, False, True])
    assert thread.wait_until_durable(1, give_up=lambda: next(patience)) is False
    gate.open.set()
    assert thread.wait_until_durable(1, give_up=never) is True


def test_close_lets_the_save_in_flight_end_and_drops_the_one_that_waits(gate: Gate) -> None:
    saving = SaveThread(gate)
    saving.start()
    gate.open.clear()
    saving.submit(job(1))
    until(lambda: gate.entered == [1])
    saving.submit(job(2))

    def open_once_it_closes() -> None:
        until(lambda: saving._closing)
        gate.open.set()

    threading.Thread(target=open_once_it_closes).start()
    saving.close(timeout_seconds=PATIENCE_SECONDS)
    assert gate.committed == [1]


def test_close_leaves_a_save_that_hangs_behind(gate: Gate) -> None:
    saving = SaveThread(gate)
    saving.start()
    gate.open.clear()
    saving.submit(job(1))
    started = time.monotonic()
    saving.close(timeout_seconds=0.05)
    assert time.monotonic() - started < PATIENCE_SECONDS / 2
    gate.open.set()


def test_a_thread_that_never_started_can_be_closed(gate: Gate) -> None:
    saving = SaveThread(gate)
    saving.close(timeout_seconds=0.0)
    assert (gate.entered, saving.durable_step) == ([], None)


# The manager, on a home


@pytest.fixture
def home() -> MemoryStorage:
    return MemoryStorage()


def managed(home: MemoryStorage, *, limit: int | None = None, interval_steps: int = 1) -> CheckpointManager:
    attempt = begin(home, limit=limit)
    manager = CheckpointManager(attempt.committer, interval_steps=interval_steps, base=attempt.adopted.base)
    manager.start()
    return manager


def test_a_run_saved_behind_its_back_ends_as_one_that_waited(home: MemoryStorage) -> None:
    manager, state = managed(home), ToyState()
    for step in range(1, 5):
        manager.wait_until_copied()
        state.train_to(step)
        manager.save_in_background(state)
    assert manager.save_now(state, reason="final", give_up=never)
    manager.write_finished()
    manager.close()
    log = check_home(home)
    assert log.finished is not None
    assert log.commit(log.finished.checkpoint).step == 4
    home.write("pytorch_lora_weights.safetensors", [home.read("checkpoint-4/pytorch_lora_weights.safetensors")])
    check_finished(home)


@pytest.mark.parametrize("limit", [1, 2, None])
def test_a_step_that_is_asked_for_while_it_is_saved_is_committed_once_and_keeps_its_files(
    home: MemoryStorage, limit: int | None
) -> None:
    """A request, a notice or the end right at an interval: a second entry would retire the first, files and all."""
    manager, state = managed(home, limit=limit), ToyState(1)
    in_flight, go_on = threading.Event(), threading.Event()

    def hold(call: str, _key: str) -> None:
        if call == "holds":
            home.before = None
            in_flight.set()
            assert go_on.wait(PATIENCE_SECONDS)

    home.before = hold
    manager.save_in_background(state)
    assert in_flight.wait(PATIENCE_SECONDS)
    manager.save_in_background(state, reason="asked for")
    go_on.set()
    assert manager.save_now(state, reason="notice", give_up=never)
    manager.close()
    state.train_to(2)
    log = check_home(home)
    assert [entry.body.step for entry in log.entries if isinstance(entry.body, Commit)] == [1]
    assert begin(home, "B").step == 1


def test_a_fenced_attempt_hears_it_at_its_next_look(home: MemoryStorage) -> None:
    manager, state = managed(home), ToyState(1)
    begin(home, "B")
    manager.save_in_background(state)
    with pytest.raises(Fenced):
        manager.save_now(state, reason="final", give_up=never)
    with pytest.raises(Fenced):
        manager.check()
    manager.close()


def test_a_save_now_of_the_step_that_the_attempt_began_from_writes_nothing(home: MemoryStorage) -> None:
    begin(home, "A").commit(1)
    manager = managed(home)
    before = len(read_log(home).entries)
    assert manager.durable_step == 1
    assert manager.newest is not None
    assert manager.save_now(ToyState(1), reason="notice", give_up=never)
    manager.write_stopped(reason="SIGTERM", exit_code=75)
    manager.close()
    assert len(read_log(home).entries) == before + 1


def test_checkpoints_are_due_at_multiples_of_the_interval(home: MemoryStorage) -> None:
    manager = managed(home, interval_steps=3)
    assert [step for step in range(1, 10) if manager.due(step)] == [3, 6, 9]
    manager.close()


@pytest.mark.parametrize("error", [StorageUnavailable("503"), AccessDenied("403")])
def test_a_goodbye_that_cannot_be_written_changes_nothing_about_the_end(home: MemoryStorage, error: Exception) -> None:
    manager = managed(home)

    def answer(_call: str, _key: str) -> None:
        raise error

    home.before = answer
    assert manager.write_stopped(reason="SIGINT", exit_code=76) is False
    home.before = None
    assert manager.write_stopped(reason="SIGINT", exit_code=76) is True
    manager.close()


def test_a_goodbye_to_a_run_that_somebody_else_holds_is_fenced(home: MemoryStorage) -> None:
    manager = managed(home)
    begin(home, "B")
    with pytest.raises(Fenced):
        manager.write_stopped(reason="SIGTERM", exit_code=75)
    manager.close()


def test_what_somebody_asked_to_retire_goes_with_the_next_commit(home: MemoryStorage) -> None:
    manager, state = managed(home), ToyState()
    for step in (1, 2, 3):
        state.train_to(step)
        assert manager.save_now(state, reason="interval", give_up=never)
    manager.retire_with_next({2, 99})
    state.train_to(4)
    assert manager.save_now(state, reason="asked to retire one", give_up=never)
    manager.close()
    log = check_home(home)
    assert log.retired == {2}
    assert "checkpoint-1/trainer_state.json" not in home.objects
