"""The real loop, manager and home around a training that is one number a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from dreambooth_resume.checkpoint.manager import CheckpointManager
from dreambooth_resume.data.batch import Batch
from dreambooth_resume.data.loader import Loader
from dreambooth_resume.preemption.requests import RequestSource
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.runs.entries import Commit
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.notice import Notice
from dreambooth_resume.training.memory import Portions
from dreambooth_resume.training.metrics import MetricsSink
from dreambooth_resume.training.progress import StepUpdate
from dreambooth_resume.training.pulse import Pulse, Situation
from dreambooth_resume.training.state import TrainingState
from dreambooth_resume.training.step import StepMetrics
from dreambooth_resume.training.trainer import Trainer
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import ToyState, begin, machine

STEPS = 6


class EveryStep:
    """A loader whose batch of step s is s."""

    def __getitem__(self, step: int) -> Batch:
        return cast(Batch, step)


class Told:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def phase(self, name: str, done: int, total: int) -> None: ...

    def step(self, update: StepUpdate) -> None: ...

    def close(self) -> None: ...


class NoSink:
    def log(self, step: int, values: Mapping[str, float]) -> None: ...


class Once:
    """A source whose notice comes at a step."""

    def __init__(self) -> None:
        self.said: Notice | None = None

    def notice(self) -> Notice | None:
        return self.said


def trainer_on(
    home: MemoryStorage,
    *,
    at_step: Callable[[int], None],
    requests: RequestSource,
    source: Once | None = None,
    limit: int | None = None,
    interval_steps: int = 2,
    told: Told | None = None,
) -> Trainer:
    attempt = begin(home, limit=limit, steps=STEPS)
    manager = CheckpointManager(attempt.committer, interval_steps=interval_steps, base=None, retry_seconds=0.05)
    manager.start()
    state = ToyState()

    def train_step(batch: Batch, *, before_update: Callable[[], None]) -> StepMetrics:
        step = cast(int, batch) + 1
        before_update()
        state.train_to(step)
        at_step(step)
        requests.look(0.0)
        return StepMetrics(loss=1.0, grad_norm=1.0, learning_rate=1e-4)

    sink = cast(MetricsSink, NoSink())
    pulse = Pulse(
        home, Situation(step=0, max_train_steps=STEPS), attempt=1, process=machine("A"), requests=requests, sink=sink
    )
    return Trainer(
        state=cast(TrainingState, state),
        train_step=train_step,
        loader=cast(Loader, EveryStep()),
        portions=Portions(size=1, effective_batch=1, batches_of=_no_batches, device_memory_bytes=None, advice=""),
        manager=manager,
        sink=sink,
        watcher=Watcher([source or Once(), requests]),
        requests=requests,
        pulse=pulse,
        reporter=told or Told(),
        max_train_steps=STEPS,
        effective_batch=1,
    )


def _no_batches(size: int) -> Callable[[int], Batch]:
    raise AssertionError(f"nobody asked for micro-batches of {size}")


def committed_steps(home: MemoryStorage) -> list[int]:
    return [entry.body.step for entry in read_log(home).entries if isinstance(entry.body, Commit)]
