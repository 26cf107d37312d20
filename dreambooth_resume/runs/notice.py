"""A notice: something wants this attempt to end, and by when."""

from __future__ import annotations

from dataclasses import dataclass

GO_NOW = 3
"""Said so often, a notice leaves no time for anything that is not yet written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Why the attempt should end, the exit code it ends with, and how long there is.

    `deadline_monotonic_s` is on this process's monotonic clock, None where the source names none. `insistence` counts
    how often it was said: 1 save at the next step boundary, 2 commit only what is needed and go, 3 go now.
    `is_advice`: the machine may go soon (AWS's rebalance recommendation); save more often, and train on.
    `is_budget`: nobody wants the machine; the run has taken what it may take.
    """

    source: str
    exit_code: int
    deadline_monotonic_s: float | None = None
    insistence: int = 1
    is_advice: bool = False
    is_budget: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """How long before the end a platform says so, as it promises."""

    source: str
    seconds: float
