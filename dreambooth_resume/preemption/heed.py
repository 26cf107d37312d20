"""What a notice asks of the training loop now: a save, more steps, or the end. Decided from numbers alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto

from dreambooth_resume.preemption.signals import ON_PURPOSE
from dreambooth_resume.runs.notice import Lead, Notice

UNKNOWN_SAVE_SECONDS = 10.0
"""What a save is thought to take before one was measured."""


class Heed(Enum):
    """What to do at this step boundary."""

    TRAIN = auto()
    SAVE = auto()
    """Commit this step behind the training's back, and train on."""
    LEAVE = auto()


@dataclass(slots=True)
class NoticeHeeder:
    """One save when a notice comes, training while there is time for another save twice over, then the end.

    A notice without a time, one that was said twice, and a stop that somebody asked for leave no steps to train. A
    notice that is withdrawn has cost one save.
    """

    _saved_for: str | None = None

    def decide(
        self, notice: Notice | None, *, now_monotonic_s: float, step_seconds: float, save_seconds: float | None
    ) -> Heed:
        """`step_seconds` and `save_seconds` are what the last ones took; None: none was measured yet."""
        if notice is None:
            self._saved_for = None
            return Heed.TRAIN
        left_seconds = time_left(notice, now_monotonic_s=now_monotonic_s)
        needed = 2 * (UNKNOWN_SAVE_SECONDS if save_seconds is None else save_seconds) + 2 * step_seconds
        if notice.insistence > 1 or notice.exit_code == ON_PURPOSE or not needed < left_seconds < math.inf:
            return Heed.LEAVE
        if self._saved_for != notice.source:
            self._saved_for = notice.source
            return Heed.SAVE
        return Heed.TRAIN


def what_a_notice_needs(save_seconds: float, lead: Lead | None) -> str:
    """What a user should know about this machine's notices, once it is known what a save takes."""
    takes = f"A save takes {save_seconds:.1f} s"
    if lead is None:
        return f"{takes}: whoever ends this process should send SIGTERM so long before."
    if lead.seconds > 2 * save_seconds:
        return f"{takes}, and {lead.source} says {lead.seconds:.0f} s ahead that a machine goes."
    return (
        f"{takes}, and {lead.source} says only {lead.seconds:.0f} s ahead that a machine goes: what was committed "
        "before may be all that is left then. Save more often: --checkpointing_seconds 60."
    )


def time_left(notice: Notice, *, now_monotonic_s: float) -> float:
    """Seconds until the machine goes, infinite where nobody says when."""
    return math.inf if notice.deadline_monotonic_s is None else notice.deadline_monotonic_s - now_monotonic_s
