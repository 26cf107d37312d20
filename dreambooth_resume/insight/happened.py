"""What a run has taken so far, from its home: to be held against an estimate."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth_resume.runs.curves import CurvePoint, read_curve
from dreambooth_resume.runs.entries import Totals
from dreambooth_resume.runs.history import Attempt, read_history, totals_of
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.status import read_status
from dreambooth_resume.storage.base import Storage

_FIRST_STEPS = 2
"""Of each attempt they have what is loaded late in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """Measured; None where nobody has."""

    step: int
    max_train_steps: int
    step_seconds: float | None
    """The median of the newest attempt that has enough steps."""
    training_seconds: float
    machine_seconds: float
    redone_steps: int
    interruptions: int
    mean_seconds: float | None
    """Machine time for each interruption."""
    save_seconds: float | None
    """From the copy to the commit, of the newest attempt. The training goes on meanwhile."""
    cost: float | None
    on_demand_cost: float | None

    @property
    def goodput(self) -> float | None:
        """The share of machine time that trained steps which count."""
        if self.step_seconds is None or self.machine_seconds <= 0.0:
            return None
        return min(1.0, self.step * self.step_seconds / self.machine_seconds)


def what_happened(storage: Storage) -> Happened | None:
    """None if nothing was trained yet. Raises RefusedToGoOn for a log with a gap."""
    log = read_log(storage)
    if log.last is None:
        return None
    history, state = read_history(storage), log.last.state
    totals = totals_of(history, state.totals if state.totals is not None else Totals())
    status = read_status(storage, history[-1].number) if history else None
    interruptions = sum(attempt.ending == "lost" or attempt.exit_code == 75 for attempt in history)
    machine_seconds = totals.machine_seconds
    return Happened(
        step=state.step,
        max_train_steps=state.max_train_steps,
        step_seconds=_step_seconds(read_curve(storage).points, history),
        training_seconds=totals.training_seconds,
        machine_seconds=machine_seconds,
        redone_steps=totals.redone_steps,
        interruptions=interruptions,
        mean_seconds=machine_seconds / interruptions if interruptions and machine_seconds else None,
        save_seconds=status.save_seconds if status else None,
        cost=totals.cost,
        on_demand_cost=totals.on_demand_cost,
    )


def _step_seconds(points: Sequence[CurvePoint], history: Sequence[Attempt]) -> float | None:
    for attempt in reversed(history):
        own = [point.seconds for point in points if point.attempt == attempt.number and point.seconds is not None]
        if len(own) > _FIRST_STEPS:
            return statistics.median(own[_FIRST_STEPS:])
    return None
