"""All sources of notices behind one question."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from dreambooth_resume.errors import BudgetSpent, DbrError, Interrupted, StoppedOnPurpose
from dreambooth_resume.preemption.signals import ON_PURPOSE
from dreambooth_resume.runs.notice import Lead, Notice

# Without --resume the same command is refused once the home holds a run.
GO_ON = "The same command with --resume latest goes on"
GO_ON_WITH_MORE = "The same command with --resume latest and a larger budget goes on"

_LOOK_SECONDS = 0.5
NEAR_SECONDS = 150.0
"""Work that saves nothing goes on until the end is so near. The two minutes of AWS are near, an hour is not."""


class NoticeSource(Protocol):
    """Something that may ask this attempt to end. `notice` only reads a value: it is asked at every step."""

    def notice(self) -> Notice | None: ...


@runtime_checkable
class Foretelling(Protocol):
    """A source that knows how long ahead it says that a machine goes."""

    def lead(self) -> Lead | None: ...


class Watcher:
    """Asks every source; the most insistent notice wins, the first source among equals, and the nearest end counts."""

    _sources: tuple[NoticeSource, ...]

    def __init__(self, sources: Sequence[NoticeSource], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        # What another watcher knows is asked of its sources: its own answer would leave advice out.
        parts = (one._sources if isinstance(one, Watcher) else (one,) for one in sources)
        self._sources = tuple(source for part in parts for source in part)
        self._monotonic = monotonic

    def notice(self) -> Notice | None:
        found = [notice for notice in self._said() if not notice.is_advice]
        if not found:
            return None
        most_insistent = max(found, key=lambda notice: notice.insistence)
        ends = [notice.deadline_monotonic_s for notice in found if notice.deadline_monotonic_s is not None]
        return replace(most_insistent, deadline_monotonic_s=min(ends, default=None))

    def advice(self) -> Notice | None:
        """Something that asks for more frequent saves and for nothing else."""
        return next((notice for notice in self._said() if notice.is_advice), None)

    def lead(self) -> Lead | None:
        """The shortest time ahead that a source promises; None where none does."""
        leads = [found for one in self._sources if isinstance(one, Foretelling) and (found := one.lead()) is not None]
        return min(leads, key=lambda lead: lead.seconds, default=None)

    def should_stop(self) -> bool:
        """For loops that have nothing to save: there is a notice, and its end, if it has one, is near."""
        notice = self.notice()
        if notice is None:
            return False
        end = notice.deadline_monotonic_s
        return end is None or end - self._monotonic() < NEAR_SECONDS

    def leave_if_asked(self, doing: str) -> None:
        """Between two pieces of work that save nothing: raise what a notice asks for."""
        if self.should_stop() and (notice := self.notice()) is not None:
            raise ending(notice, f"{notice.source} while {doing}: nothing was lost. {how_to_go_on(notice)}.")

    def wait(self, seconds: float, *, doing: str) -> None:
        """Let time pass. Raises what a notice asks for meanwhile."""
        end = self._monotonic() + seconds
        while (left := end - self._monotonic()) > 0.0:
            self.leave_if_asked(doing)
            time.sleep(min(_LOOK_SECONDS, left))

    def _said(self) -> list[Notice]:
        return [notice for source in self._sources if (notice := source.notice()) is not None]


def how_to_go_on(notice: Notice) -> str:
    """What to type next, without the full stop; with a budget that is spent, the same again would end at once."""
    return GO_ON_WITH_MORE if notice.is_budget else GO_ON


def ending(notice: Notice, message: str) -> DbrError:
    """The error that ends an attempt as `notice` wants it to end."""
    if notice.is_budget:
        return BudgetSpent(message)
    return StoppedOnPurpose(message) if notice.exit_code == ON_PURPOSE else Interrupted(message)
