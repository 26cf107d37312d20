"""A time limit that the platform does not announce (HF Jobs, a booked hour): `--deadline 25m` from the start."""

from __future__ import annotations

import time
from collections.abc import Callable

from dreambooth_resume.preemption.signals import COME_BACK
from dreambooth_resume.runs.notice import Notice

_LEAD_SECONDS = 120.0


class DeadlineSource:
    """A notice once the end is near: two minutes before it, or a tenth of a limit that is shorter than 20 minutes."""

    def __init__(
        self, seconds: float, *, started_monotonic_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._end = started_monotonic_s + seconds
        self._lead_seconds = min(_LEAD_SECONDS, seconds / 10)
        self._length = f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} minutes"
        self._monotonic = monotonic

    def notice(self) -> Notice | None:
        if self._monotonic() < self._end - self._lead_seconds:
            return None
        return Notice(
            source=f"the deadline of {self._length}",
            exit_code=COME_BACK,
            deadline_monotonic_s=self._end,
        )
