"""Does a training still get on? Judged from its signs of life alone, so that a test needs no clock."""

from __future__ import annotations

QUIET_SECONDS = 600.0
"""A training that shows no step for so long stalls; one with long steps gets twenty of them."""
STARTING_QUIET_SECONDS = 1800.0
"""Before the first step a model is fetched, which may take long and shows nothing."""
UNSAVED_SECONDS = 600.0
"""How long saves may fail before somebody should look."""
_STEPS = 20.0


class StallWatch:
    """Says once that a training stalls, and again only after it got on in between. Moments are monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._last_sign = now
        self._step: int | None = None
        self._longest_step = 0.0
        self._unsaved_since: float | None = None
        self._alarm: str | None = None
        self._said_quiet = False
        self._said_unsaved = False

    def sign(self, now: float) -> None:
        """Something moved: pictures are encoded, class pictures are made."""
        self._last_sign = now
        self._said_quiet = False

    def step(self, now: float, step: int, *, alarm: str | None) -> None:
        """A step was made; `alarm` is why saves fail, if they do."""
        if self._step is not None:
            # One slow step in the past must not hide a stall for ever.
            self._longest_step = max(0.9 * self._longest_step, now - self._last_sign)
        self._step = step
        self.sign(now)
        self._alarm = alarm
        if alarm is None:
            self._unsaved_since, self._said_unsaved = None, False
        elif self._unsaved_since is None:
            self._unsaved_since = now

    def look(self, now: float) -> str | None:
        """What stalls, as the end of a sentence; None where nothing does, or it was said already."""
        quiet = now - self._last_sign
        patience = STARTING_QUIET_SECONDS
        if self._step is not None:
            patience = max(QUIET_SECONDS, _STEPS * self._longest_step)
        if quiet >= patience and not self._said_quiet:
            self._said_quiet = True
            since = "before its first step" if self._step is None else f"after step {self._step}"
            return f"nothing has moved for {quiet / 60.0:.0f} minutes, {since}"
        unsaved = 0.0 if self._unsaved_since is None else now - self._unsaved_since
        if unsaved >= UNSAVED_SECONDS and not self._said_unsaved:
            self._said_unsaved = True
            return f"training goes on, but nothing could be saved for {unsaved / 60.0:.0f} minutes: {self._alarm}"
        return None
