"""What saving at every step costs a training's wall time, on a home here and on one a round trip away.

Both are one whole `dbr train` in one process, whose blocks of steps save and don't save by turns: between two processes
the same steps differ by more than what is measured here. What isn't saved is told apart by `due` alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench_model import train_words

from dreambooth_resume.checkpoint.manager import CheckpointManager
from dreambooth_resume.config.load import parse_train
from dreambooth_resume.training.progress import StepUpdate
from dreambooth_resume.workflows.train import train

WANTED_LOCAL = 1.05
WANTED_S3 = 1.10
SAVED_STEPS = 200
_LEAD_IN_STEPS = 1
_BLOCK_STEPS = 20
_CALM_STEPS = 10
_IDLE_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SavingFigures:
    """Of each block that saves, seconds a step with and without; and how far the commits were behind, at most."""

    saving_seconds: float
    calm_seconds: float
    ratios: tuple[float, ...]
    commits: int
    steps: int
    age_steps: int
    age_seconds: float
    upload_seconds: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


@dataclass(slots=True)
class _Switch:
    """Stands for `CheckpointManager.due`: a save is due at every step while `is_on`."""

    is_on: bool = False
    manager: CheckpointManager | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        real = CheckpointManager.due
        CheckpointManager.due = lambda manager, _step: self._due(manager)  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            CheckpointManager.due = real  # type: ignore[method-assign]

    def _due(self, manager: CheckpointManager) -> bool:
        self.manager = manager
        return self.is_on


class _Blocks:
    """The reporter of the training: switches saving on and off, and takes the time.

    A block that saves begins one step after its first save, so that a save is under way from its first moment to its
    last, as it always is where every step saves. What is still being saved at its end is waited for, off the clock.
    """

    def __init__(self, switch: _Switch) -> None:
        self._switch = switch
        self._left = _CALM_STEPS + _LEAD_IN_STEPS
        self._since: float | None = None
        self._made_at: dict[int, float] = {}
        self._first_save = 0
        self._uploads: list[float] = []
        self._durable: tuple[int, float] | None = None
        self.calm: list[float] = []
        self.saving: list[float] = []
        self.commits = 0
        self.age_steps = 0
        self.age_seconds = 0.0

    def step(self, update: StepUpdate) -> None:
        now = time.perf_counter()
        self._made_at[update.step] = now
        if self._switch.is_on:
            self._look_at_commits(update, now)
        self._left -= 1
        if self._since is None and self._left <= self._block_steps:
            self._since = now
        if self._left == 0:
            assert self._since is not None
            (self.saving if self._switch.is_on else self.calm).append((now - self._since) / self._block_steps)
            self._turn(update.step)

    @property
    def _block_steps(self) -> int:
        return _BLOCK_STEPS if self._switch.is_on else _CALM_STEPS

    @property
    def upload_seconds(self) -> float:
        return statistics.median(self._uploads)

    def _turn(self, step: int) -> None:
        manager = self._switch.manager
        if self._switch.is_on and manager is not None:
            self._wait_until_idle(manager, step - 1)
        self._switch.is_on = not self._switch.is_on
        self._first_save = step
        self._durable = None
        self._left = self._block_steps + _LEAD_IN_STEPS
        self._since = None

    def _wait_until_idle(self, manager: CheckpointManager, step: int) -> None:
        until = time.monotonic() + _IDLE_SECONDS_MAX
        while manager.durable_step != step:
            if time.monotonic() > until:
                raise TimeoutError(f"step {step} was not committed: {manager.alarm}")
            time.sleep(0.01)

    def _look_at_commits(self, update: StepUpdate, now: float) -> None:
        durable = update.durable_step
        if durable is None or durable < self._first_save:
            return
        if self._durable is None or self._durable[0] != durable:
            self.commits += 1
            if self._durable is not None:
                self._uploads.append(now - self._durable[1])
            self._durable = (durable, now)
        self.age_steps = max(self.age_steps, update.step - durable)
        self.age_seconds = max(self.age_seconds, now - self._made_at[durable])

    def message(self, text: str) -> None: ...

    def phase(self, name: str, done: int, total: int) -> None: ...

    def close(self) -> None: ...


def measure_saving(folder: Path, home: str, *, endpoint_url: str | None = None) -> SavingFigures:
    """Train 200 steps that save, and half as many in between that don't."""
    blocks = SAVED_STEPS // _BLOCK_STEPS
    steps = _LEAD_IN_STEPS + _CALM_STEPS + blocks * (_BLOCK_STEPS + _CALM_STEPS + 2 * _LEAD_IN_STEPS)
    words = train_words(folder, home, steps=steps, checkpointing_steps=1)
    if endpoint_url is not None:
        words += ["--s3_endpoint_url", endpoint_url, "--stage_dir", str(folder / "stage")]
    switch = _Switch()
    reporter = _Blocks(switch)
    with switch.installed():
        train(parse_train(words), reporter)
    calm = [(before + after) / 2 for before, after in zip(reporter.calm, reporter.calm[1:], strict=False)]
    return SavingFigures(
        saving_seconds=statistics.median(reporter.saving),
        calm_seconds=statistics.median(calm),
        ratios=tuple(slow / fast for slow, fast in zip(reporter.saving, calm, strict=True)),
        commits=reporter.commits,
        steps=blocks * (_BLOCK_STEPS + _LEAD_IN_STEPS),
        age_steps=reporter.age_steps,
        age_seconds=reporter.age_seconds,
        upload_seconds=reporter.upload_seconds,
    )
