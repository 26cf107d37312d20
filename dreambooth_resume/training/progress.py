"""What training says to whoever watches. The command line implements it; training knows only this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUpdate:
    """One finished optimizer update."""

    step: int
    max_train_steps: int
    loss: float
    learning_rate: float
    samples_per_second: float
    durable_step: int | None
    """The newest committed step; None before the first checkpoint."""
    alarm: str | None
    """Why commits wait, for as long as they do."""


class Reporter(Protocol):
    """Called on the training thread. No method may fail or wait: showing progress must not cost training anything."""

    def message(self, text: str) -> None:
        """A line for people, shown at once and kept."""
        ...

    def phase(self, name: str, done: int, total: int) -> None:
        """How far something other than training is, such as `encoding pictures`, 3 of 64."""
        ...

    def step(self, update: StepUpdate) -> None:
        """After every update; the reporter decides which of them it shows."""
        ...

    def close(self) -> None:
        """Leave the screen as it should stay. Nothing is reported afterwards; closing twice is fine."""
        ...


class Silent:
    """The reporter of a process that has nothing to show: another one does."""

    def message(self, text: str) -> None:
        pass

    def phase(self, name: str, done: int, total: int) -> None:
        pass

    def step(self, update: StepUpdate) -> None:
        pass

    def close(self) -> None:
        pass
