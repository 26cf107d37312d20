"""A time limit that the platform does not announce (HF Jobs, a booked hour): `--deadline 25m` from the start."""

from __future__ import annotations

import time
from collections.abc import Callable

from dreambooth_resume.preemption.signals import COME_BACK
from dreambooth_resume.runs.notice import Notice

_LEAD_SECONDS = 120.0


def lead_of(limit_seconds: float) -> float:
    """How long before the end of such a limit a training is told: two minutes, or a tenth of a short one."""
    return min(_LEAD_SECONDS, limit_seconds / 10)


class DeadlineSource:
    """A notice once the end is near (`lead_of`)."""

    def __init__(
        self,
        seconds: float,
        *,
        started_monotonic_s: float,
        name: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is whose time limit it is; None: the user's own `--deadline`."""
        self._end = started_monotonic_s + seconds
        self._lead_seconds = lead_of(seconds)
        length = f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} minutes"
        self._name = name or f"the deadline of {length}"
        self._monotonic = monotonic

    def notice(self) -> Notice | None:
        if self._monotonic() < self._end - self._lead_seconds:
            return None
        return Notice(
            source=self._name,
            exit_code=COME_BACK,
            deadline_monotonic_s=self._end,
        )
