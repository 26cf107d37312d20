"""The mirror on the Hub: the newest commit, one upload at a time, trouble is an alarm, and nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import pytest

from dreambooth_resume.errors import AccessDenied
from dreambooth_resume.models.hub import HubUnreachable
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.workflows.hub_mirror import HubMirror, newest_commit
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin


def ref(number: int) -> CheckpointRef:
    return CheckpointRef(number=number, step=10 * number, attempt=1, folder=f"checkpoint-{10 * number}", files=())


class Bench:
    """A log whose newest commit a test sets, and a Hub whose answer it chooses."""

    def __init__(self) -> None:
        self.newest: CheckpointRef | None = None
        self.sent: list[str] = []
        self.answer: Callable[[], None] = lambda: None
        self.mirror = HubMirror(
            lambda: self.newest,
            files=lambda one: {"weights": one.folder.encode()},
            send=self._send,
            look_seconds=0.001,
            retry_seconds=0.001,
        )

    def _send(self, message: str, files: Mapping[str, bytes]) -> str:
        self.answer()
        self.sent.append(f"{message}: {files['weights'].decode()}")
        return "address"


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_each_commit_is_uploaded_once_and_what_was_there_at_the_start_is_not(bench: Bench) -> None:
    bench.newest = ref(1)
    bench.mirror.start()
    bench.newest = ref(2)
    until(lambda: bench.sent == ["Step 20: checkpoint-20"])
    bench.newest = ref(3)
    until(lambda: len(bench.sent) == 2)
    assert bench.mirror.close(timeout_seconds=5)
    assert bench.sent == ["Step 20: checkpoint-20", "Step 30: checkpoint-30"]


def test_while_an_upload_takes_its_time_the_newest_of_the_others_waits_for_it(bench: Bench) -> None:
    go_on, began = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        assert go_on.wait(20)

    bench.answer = slow
    bench.mirror.start()
    bench.newest = ref(1)
    assert began.wait(20)
    for number in (2, 3, 4):
        bench.newest = ref(number)
    go_on.set()
    until(lambda: len(bench.sent) == 2)
    assert bench.mirror.close(timeout_seconds=5)
    assert bench.sent == ["Step 10: checkpoint-10", "Step 40: checkpoint-40"]


@pytest.mark.parametrize("error", [HubUnreachable("the Hub: it answers 500"), AccessDenied("the Hub refuses (401)")])
def test_trouble_is_an_alarm_until_a_later_try_gets_through(bench: Bench, error: Exception) -> None:
    def down() -> None:
        raise error

    bench.answer = down
    bench.mirror.start()
    bench.newest = ref(1)
    until(lambda: bench.mirror.alarm is not None)
    assert bench.mirror.alarm == f"The mirror on the Hub is behind at step 10: {error}"
    bench.newest = ref(2)
    bench.answer = lambda: None
    until(lambda: bench.mirror.alarm is None)
    assert bench.mirror.close(timeout_seconds=5)
    assert bench.sent == ["Step 20: checkpoint-20"]


def test_a_hub_that_hangs_is_left_behind_at_the_end(bench: Bench) -> None:
    go_on, began = threading.Event(), threading.Event()

    def hang() -> None:
        began.set()
        go_on.wait(60)

    bench.answer = hang
    bench.mirror.start()
    bench.newest = ref(1)
    assert began.wait(20)
    assert not bench.mirror.close(timeout_seconds=0.01)
    go_on.set()
    assert bench.mirror.close(timeout_seconds=20)


def test_a_fault_ends_the_mirror_and_nothing_else(bench: Bench) -> None:
    def fault() -> None:
        raise ZeroDivisionError

    bench.answer = fault
    bench.mirror.start()
    bench.newest = ref(1)
    until(lambda: bench.mirror.alarm is not None)
    assert "has ended (ZeroDivisionError); the run itself goes on" in str(bench.mirror.alarm)
    assert bench.mirror.close(timeout_seconds=5)


def test_the_newest_commit_is_that_of_the_log() -> None:
    attempt = begin(MemoryStorage())
    assert newest_commit(attempt.log) is None
    attempt.commit(1)
    attempt.commit(3)
    attempt.stop()
    newest = newest_commit(attempt.log)
    assert newest is not None
    assert (newest.step, newest.folder) == (3, "checkpoint-3")
