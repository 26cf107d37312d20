"""The facts of the runs that are compared, for all tabs; a run is read again only where something of it has moved."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from dreambooth_resume.insight.facts import RunFacts, read_facts
from dreambooth_resume.runs.home import LOG_PREFIX, METRICS_PREFIX, SAMPLES_PREFIX
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.ui.homes import pace_of
from dreambooth_resume.ui.open_run import OpenRun

_KEPT = 12
_Seen = tuple[tuple[str, int, str, float | None], ...]


@dataclass(frozen=True, slots=True)
class _Known:
    lasts_until: float
    moved: tuple[int, int]
    seen: _Seen
    facts: RunFacts


class Compared:
    """Facts by home, the last few of them. A home is asked no more often than its pace says."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._monotonic = monotonic
        self._lock = threading.Lock()

    def facts(self, run: OpenRun) -> RunFacts | None:
        """The run's facts as they are now; None if it was deleted. Raises what the storage and a damaged log raise."""
        with self._lock:
            known = self._known.get(run.home)
        moved = (run.commands, run.storage.replaced)
        if known is not None and self._monotonic() < known.lasts_until and known.moved == moved:
            return known.facts
        seen = _seen(run.storage)
        if known is not None and known.seen == seen:
            # A heartbeat that stops changes the state, and nothing that is listed.
            summary = summarise(run.storage)
            facts = None if summary is None else replace(known.facts, summary=summary)
        else:
            facts = read_facts(run.storage)
        with self._lock:
            if facts is None:
                self._known.pop(run.home, None)
            else:
                pace = pace_of(run.home)
                lasts = pace.finished if facts.summary.state == "finished" else pace.place
                self._known[run.home] = _Known(self._monotonic() + lasts, moved, seen, facts)
                self._known.move_to_end(run.home)
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return facts


def _seen(storage: Storage) -> _Seen:
    """What grows as a run goes on, and is another one where another run was begun in its home."""
    return tuple(
        (found.key, found.size_bytes, found.version, found.modified_at)
        for prefix in (LOG_PREFIX, METRICS_PREFIX, SAMPLES_PREFIX)
        for found in storage.list(prefix)
    )
