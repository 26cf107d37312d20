"""Process 0 and its hands: what goes through shared memory, and what process 0 makes of every answer and of none."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, cast

import pytest
import torch

from dreambooth_resume.data.batch import Batch
from dreambooth_resume.errors import ComeBack, ProcessLost, StoppedOnPurpose
from dreambooth_resume.preemption.watcher import NoticeSource, Watcher
from dreambooth_resume.runs.notice import Notice
from dreambooth_resume.training import hands as hands_of_a_run
from dreambooth_resume.training.exchange import (
    Answer,
    Failed,
    Order,
    Ready,
    Rows,
    Said,
    Taken,
    read,
    received,
    write,
)
from dreambooth_resume.training.hands import Hands, HandsAtWork, Link
from dreambooth_resume.training.memory import Portions
from dreambooth_resume.training.step import HandsLate

pytestmark = pytest.mark.quick

NUMBERS = 10


@dataclass
class FakeProcess:
    """A hand that is this very process; `end` is what its sentinel would see."""

    pid: int = field(default_factory=os.getpid)
    exitcode: int | None = None
    sentinel: int = -1
    closes: int = -1
    ends_within: tuple[float, int] | None = None
    """Seconds until its exit code can be asked for, and the code."""

    def __post_init__(self) -> None:
        self.sentinel, self.closes = os.pipe()

    def end(self, code: int) -> None:
        self.exitcode = code
        os.close(self.closes)
        self.closes = -1

    def join(self, timeout: float) -> None:
        if self.ends_within is not None and timeout >= self.ends_within[0]:
            self.exitcode = self.ends_within[1]

    def kill(self) -> None:
        pass


@dataclass
class Scene:
    """Process 0 with one hand, whose end of the pipe is `other`."""

    hands: Hands
    process: FakeProcess
    other: Connection
    told: list[str]


@pytest.fixture
def scene() -> Iterator[Scene]:
    told: list[str] = []
    hands, process = Hands([0, 0], tell=told.append), FakeProcess()
    ours, other = Pipe()
    hands.links.append(Link(process=cast(Any, process), connection=ours))
    yield Scene(hands=hands, process=process, other=other, told=told)
    for descriptor in (process.sentinel, process.closes):
        if descriptor >= 0:
            os.close(descriptor)


def parameters() -> dict[str, torch.nn.Parameter]:
    values = torch.arange(NUMBERS, dtype=torch.float32)
    return {
        "a": torch.nn.Parameter(values[:6].reshape(2, 3).clone()),
        "b": torch.nn.Parameter(values[6:].clone()),
    }


def portions() -> Portions:
    return Portions(size=1, effective_batch=3, batches_of=cast(Any, None), device_memory_bytes=None, advice="")


def batch(micro_batches: int) -> Batch:
    return Batch(step=5, micro_batches=(), picture_names=(), slots=micro_batches, micro_batch_count=micro_batches)


@dataclass
class Asked:
    """A source of one notice."""

    said: Notice | None = None

    def notice(self) -> Notice | None:
        return self.said


def at_work(scene: Scene, trained: dict[str, torch.nn.Parameter], *sources: NoticeSource) -> tuple[HandsAtWork, Rows]:
    """Process 0 ready to train, and the memory as the hand sees it."""
    seen: list[Rows] = []

    def be_ready() -> None:
        scene.other.send(Ready(numbers=NUMBERS))
        seen.append(received(scene.other, scene.other.recv()))

    hand = threading.Thread(target=be_ready)
    hand.start()
    work = scene.hands.when_ready(trained, portions(), Watcher(sources))
    hand.join()
    return work, seen[0]


def test_what_is_written_into_a_row_is_read_in_its_shapes_from_any_layout() -> None:
    rows, trained = Rows(2, NUMBERS), parameters()
    turned = torch.arange(6, dtype=torch.float32).reshape(3, 2).T
    write(rows[1], [turned, trained["b"]])
    found = read(rows[1], trained)
    assert torch.equal(found["a"], turned)
    assert torch.equal(found["b"], trained["b"])
    assert not rows[0].any()


def test_a_hand_sees_the_parameters_and_its_gradient_is_added_to_what_is_there(scene: Scene) -> None:
    trained = parameters()
    work, rows = at_work(scene, trained)
    work.begin(5, loss_scale=2.0)
    order = scene.other.recv()
    assert order == Order(serial=1, step=5, micro_batch_size=1, loss_scale=2.0)
    assert torch.equal(rows[0], torch.arange(NUMBERS, dtype=torch.float32))
    trained["a"].grad = torch.ones(2, 3)  # the loss does not reach b
    rows[1].copy_(torch.arange(NUMBERS, dtype=torch.float32) * 10)
    scene.other.send(Answer(serial=1, loss=0.1, checksum=8))
    (part,) = work.add_round(batch(2), 0)
    assert part.checksum == 8
    assert part.loss.item() == torch.tensor(0.1, dtype=torch.float32).item()
    assert torch.equal(trained["a"].grad, torch.arange(6, dtype=torch.float32).reshape(2, 3) * 10 + 1)
    assert trained["b"].grad is None
    assert scene.other.recv() == Taken()


def test_nothing_is_waited_for_where_the_step_has_no_further_micro_batch(scene: Scene) -> None:
    work, _rows = at_work(scene, parameters())
    assert work.add_round(batch(3), 1) == []


def test_an_answer_to_an_order_that_another_took_the_place_of_is_passed_over(scene: Scene) -> None:
    trained = parameters()
    work, rows = at_work(scene, trained)
    work.begin(5, loss_scale=1.0)
    work.begin(5, loss_scale=1.0)
    trained["a"].grad, trained["b"].grad = torch.zeros(2, 3), torch.zeros(4)
    rows[1].fill_(1.0)
    scene.other.send(Answer(serial=1, loss=7.0))
    scene.other.send(Said(text="the storage does not answer"))
    scene.other.send(Answer(serial=2, loss=3.0))
    assert [part.loss.item() for part in work.add_round(batch(2), 0)] == [3.0]
    assert scene.told == ["process 1: the storage does not answer"]


def test_too_little_memory_in_a_hand_is_too_little_memory(scene: Scene) -> None:
    work, _rows = at_work(scene, parameters())
    work.begin(5, loss_scale=1.0)
    scene.other.send(Answer(serial=1, loss=None))
    with pytest.raises(torch.OutOfMemoryError, match="in process 1 of 2"):
        work.add_round(batch(2), 0)


@pytest.mark.parametrize(("code", "error"), [(75, ComeBack), (78, ProcessLost), (77, ProcessLost)])
def test_why_a_hand_can_not_go_on_is_said_by_process_0(scene: Scene, code: int, error: type[Exception]) -> None:
    scene.other.send(Failed(text="the home is away", exit_code=code))
    scene.process.end(code)
    with pytest.raises(error, match=r"Process 1 of 2: the home is away"):
        scene.hands.hear(1, Answer)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (1, "Process 1 of 2 ended with exit code 1; its error is printed above"),
        (-signal.SIGKILL, "Process 1 of 2 was ended by SIGKILL, as the system does when memory is short"),
        (-signal.SIGSEGV, r"Process 1 of 2 was ended by SIGSEGV\. "),
    ],
)
def test_a_hand_that_is_gone_is_missed_at_once_whether_it_is_asked_or_told(scene: Scene, code: int, told: str) -> None:
    scene.process.end(code)
    with pytest.raises(ProcessLost, match=told):
        scene.hands.hear(1, Answer)
    scene.other.close()
    with pytest.raises(ProcessLost, match=told):
        scene.hands.assign("work")


@pytest.mark.parametrize(
    ("ends_within", "told"),
    [
        ((3.0, -signal.SIGKILL), r"Process 1 of 2 was ended by SIGKILL"),
        (None, r"Process 1 of 2 broke off, and has not ended 10 s later"),
    ],
)
def test_a_hand_that_takes_its_time_to_end_is_waited_for_and_one_that_does_not_end_has_no_exit_code(
    scene: Scene, ends_within: tuple[float, int] | None, told: str
) -> None:
    scene.process.ends_within = ends_within
    scene.other.close()
    with pytest.raises(ProcessLost, match=told):
        scene.hands.hear(1, Answer)


def test_a_notice_is_heeded_while_hands_load_the_model(scene: Scene) -> None:
    scene.hands = Hands([0, signal.SIGINT], tell=scene.told.append)
    scene.hands.links.append(Link(process=cast(Any, scene.process), connection=Pipe()[0]))
    with pytest.raises(StoppedOnPurpose, match="SIGINT to process 1 while loading the model: nothing was lost"):
        scene.hands.when_ready(parameters(), portions(), Watcher([scene.hands]))


def test_a_notice_is_heeded_while_a_hand_is_late_unless_its_end_is_far(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands_of_a_run, "LATE_SECONDS", 0.0)
    source = Asked(Notice(source="Slurm", exit_code=75, deadline_monotonic_s=time.monotonic() + 3600.0))
    work, rows = at_work(scene, trained := parameters(), source)
    trained["a"].grad, trained["b"].grad = torch.zeros(2, 3), torch.zeros(4)
    work.begin(5, loss_scale=1.0)
    rows[1].fill_(1.0)
    scene.other.send(Answer(serial=1, loss=3.0))
    assert [part.loss.item() for part in work.add_round(batch(2), 0)] == [3.0]
    work.begin(6, loss_scale=1.0)
    source.said = Notice(source="SIGTERM", exit_code=75)
    with pytest.raises(HandsLate, match="SIGTERM"):
        work.add_round(batch(2), 0)


def test_a_hand_that_is_not_late_is_waited_for_whatever_notice_there_is(scene: Scene) -> None:
    trained, source = parameters(), Asked()
    work, _rows = at_work(scene, trained, source)
    source.said = Notice(source="SIGTERM", exit_code=75)
    trained["a"].grad, trained["b"].grad = torch.zeros(2, 3), torch.zeros(4)
    work.begin(5, loss_scale=1.0)
    threading.Timer(0.7, scene.other.send, [Answer(serial=1, loss=3.0)]).start()
    assert [part.loss.item() for part in work.add_round(batch(2), 0)] == [3.0]


def signals_of(*numbers: int) -> Callable[[], Any]:
    return lambda: Hands(list(numbers), tell=lambda _text: None).notice()


def test_a_signal_to_a_hand_is_a_notice_that_insists_no_more_than_the_first_one() -> None:
    assert signals_of(0, 0, 0)() is None
    notice = signals_of(0, 0, signal.SIGTERM)()
    assert (notice.source, notice.exit_code, notice.insistence) == ("SIGTERM to process 2", 75, 1)
    assert signals_of(0, signal.SIGINT, signal.SIGINT)().exit_code == 76
