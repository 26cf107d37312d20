"""A stretch of a training that ends itself: at a step, cleanly, or by SIGKILL between steps, in one, or in a save.

What `dbr verify-resume` runs, each time in a process of its own. The training is that of `dbr train`, unchanged: its
end comes from outside, by the reporter that is told of each step and by a count of the calls by which a save changes
the home. Nothing of this lives in a normal training.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from dreambooth_resume.config.load import parse_train
from dreambooth_resume.training.progress import Reporter, StepUpdate
from dreambooth_resume.workflows.train import train

_CALLS = ("fsync", "replace", "link", "rename", "unlink")
"""By which a home in a folder changes."""
_CREATES = ("link", "rename")
"""By which a log entry comes to be: the second where there are no hard links."""
_COMMIT_SECONDS = 600.0
_SAVING_THREADS = "dbr-save"
"""Begins the names of the threads that write checkpoints."""

CutKind = Literal["between steps", "in a step", "in a save"]


class Cut(BaseModel):
    """Where a process ends itself by SIGKILL: once it has made `steps` steps and committed a save, or in a save."""

    model_config = ConfigDict(frozen=True)

    kind: CutKind
    steps: int = 0
    """In a save: after so many the training waits for `saves` saves, which a slow disk would else let it outrun."""
    saves: int = 1
    share_of_a_step: float = 0.5
    """In a step: after so much of the time that the step before took."""
    call: int = 0
    """In a save: before the so many-th call by which its saves change the home, from 1."""


class Stretch(BaseModel):
    """What one process is to train, and how it ends."""

    model_config = ConfigDict(frozen=True)

    words: tuple[str, ...]
    """Of `dbr train`."""
    until_step: int
    cut: Cut | None = None
    writes_file: str | None = None
    """Where to note how many calls the saves made."""


def train_stretch(stretch: Stretch, reporter: Reporter) -> int:
    """Train until the stretch ends, with exit code 75, or 0 where that is the run's last step; or die on the way."""
    writes = _CountedWrites(stretch.cut)
    writes.install()
    try:
        return train(parse_train(stretch.words), _Ender(stretch, reporter, writes), notifies=False)
    finally:
        if stretch.writes_file is not None:
            Path(stretch.writes_file).write_text(f"{writes.saves} {writes.calls}\n")


class _Ender:
    """A reporter that passes everything on, and ends the process where the stretch says so."""

    def __init__(self, stretch: Stretch, inner: Reporter, writes: _CountedWrites) -> None:
        self._stretch = stretch
        self._writes = writes
        self._inner = inner
        self._made = 0
        self._last_monotonic_s = time.monotonic()

    def message(self, text: str) -> None:
        self._inner.message(text)

    def phase(self, name: str, done: int, total: int) -> None:
        self._inner.phase(name, done, total)

    def step(self, update: StepUpdate) -> None:
        self._inner.step(update)
        self._made += 1
        now = time.monotonic()
        took_seconds, self._last_monotonic_s = now - self._last_monotonic_s, now
        cut = self._stretch.cut
        if cut is not None and self._made == cut.steps:
            self._wait_for_commits(cut.saves)
            if cut.kind == "between steps":
                _die()
            if cut.kind == "in a step":
                threading.Timer(cut.share_of_a_step * took_seconds, _die).start()
        if self._stretch.until_step <= update.step < update.max_train_steps:
            # To this thread: the handler has run when this returns, so the loop saves this very step and leaves.
            signal.raise_signal(signal.SIGTERM)

    def close(self) -> None:
        self._inner.close()

    def _wait_for_commits(self, saves: int) -> None:
        """However slow the disk is: what is killed is to be resumed from a checkpoint of its own."""
        give_up = time.monotonic() + _COMMIT_SECONDS
        while self._writes.saves < saves and time.monotonic() < give_up:
            time.sleep(0.01)


class _CountedWrites:
    """Counts the calls by which the saving threads change the home, and dies before the one that is wanted."""

    def __init__(self, cut: Cut | None) -> None:
        self._wanted = cut.call if cut is not None and cut.kind == "in a save" else 0
        self._lock = threading.Lock()
        self.calls = 0
        self.saves = 0
        """How many log entries they made."""

    def install(self) -> None:
        """For the rest of this process. The storage calls these by name."""
        for name in _CALLS:
            setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread().name.startswith(_SAVING_THREADS):
                with self._lock:
                    self.calls += 1
                    if self.calls == self._wanted:
                        _die()
                result = real(*arguments, **options)
                with self._lock:
                    self.saves += name in _CREATES
                return result
            return real(*arguments, **options)

        return counted


def _die() -> None:
    """As a machine that vanishes: no handler, no flush, no farewell."""
    os.kill(os.getpid(), signal.SIGKILL)
