"""One thread that looks at everything that has to be asked; the training thread only reads the last answers."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from dreambooth_resume.preemption.metadata import MetadataTrouble
from dreambooth_resume.runs.notice import Lead, Notice

_LOG = logging.getLogger(__name__)
_LONGEST_INTERVAL_SECONDS = 30.0


class PolledSource(Protocol):
    """Something that has to be asked. `look` may take a second or two, and raises MetadataTrouble without an answer."""

    @property
    def name(self) -> str: ...

    @property
    def interval_seconds(self) -> float: ...

    def look(self) -> Notice | None: ...


@runtime_checkable
class _Foretelling(Protocol):
    def lead(self) -> Lead | None: ...


@runtime_checkable
class _HasLead(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def lead_seconds(self) -> float: ...


class Poller:
    """A source of notices for the watcher: what the polled sources said when they were last asked.

    Trouble with a source is told once, the source asked less and less often (up to every 30 s), and what it said last
    holds until it answers again. A notice that is withdrawn is told too.
    """

    def __init__(self, *, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._said: dict[str, Notice | None] = {}
        self._in_trouble: dict[str, int] = {}
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._sources: Sequence[PolledSource] = ()

    def start(self, sources: Sequence[PolledSource]) -> None:
        """Begin to ask these, at once and then each at its interval."""
        self._sources = sources
        if sources:
            self._thread = threading.Thread(target=self._run, args=(sources,), name="dbr-notices", daemon=True)
            self._thread.start()

    def close(self, *, timeout_seconds: float = 0.0) -> None:
        """Stop asking. A look that is under way needs no waiting for: the thread is a daemon and writes nothing."""
        self._end.set()
        if self._thread is not None and timeout_seconds:
            self._thread.join(timeout_seconds)

    def notice(self) -> Notice | None:
        """The notice with the nearest end; without any, what is only advice."""
        said = [notice for notice in self._said.copy().values() if notice is not None]
        return min(said, key=lambda notice: (notice.is_advice, _end_of(notice)), default=None)

    def lead(self) -> Lead | None:
        """How long ahead the cloud says that this machine goes; None off a cloud."""
        for source in self._sources:
            if isinstance(source, _Foretelling):
                return source.lead()
            if isinstance(source, _HasLead):
                return Lead(source=source.name, seconds=source.lead_seconds)
        return None

    def look(self, source: PolledSource) -> float:
        """Ask one source; seconds until it is to be asked again, with jitter."""
        before = self._said.get(source.name)
        try:
            found = source.look()
        except MetadataTrouble as error:
            times = self._in_trouble[source.name] = self._in_trouble.get(source.name, 0) + 1
            if times == 1:
                self._tell(f"Notices of {source.name} can't be read ({error}). Asking again; training goes on.")
            wait_seconds = min(source.interval_seconds * 2.0 ** min(times, 10), _LONGEST_INTERVAL_SECONDS)
        else:
            if self._in_trouble.pop(source.name, 0):
                self._tell(f"Notices of {source.name} are read again.")
            self._said[source.name] = found
            if before is not None and found is None:
                self._tell(f"{before.source}: withdrawn.")
            wait_seconds = source.interval_seconds
        return float(wait_seconds * (0.8 + 0.4 * random.random()))

    def _run(self, sources: Sequence[PolledSource]) -> None:
        waits = dict.fromkeys(range(len(sources)), 0.0)
        try:
            while True:
                nearest = min(waits.values())
                if self._end.wait(nearest):
                    return
                waits = {number: left - nearest for number, left in waits.items()}
                for number in [number for number, left in waits.items() if left <= 0.0]:
                    waits[number] = self.look(sources[number])
        except Exception:  # noqa: BLE001
            # The thread's root: a bug here must not end the training, and must not go unseen either.
            _LOG.exception("no notices are read any more")
            self._tell("Notices are not read any more, because of a bug in dbr (see the log). Training goes on.")


def _end_of(notice: Notice) -> float:
    return notice.deadline_monotonic_s if notice.deadline_monotonic_s is not None else float("inf")
