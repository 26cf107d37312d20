"""`control/` as a source: what people ask of this attempt while it runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from dreambooth_resume.errors import AccessDenied, StorageUnavailable
from dreambooth_resume.preemption.signals import ON_PURPOSE
from dreambooth_resume.runs.control import POLL_SECONDS, Request, open_requests
from dreambooth_resume.runs.notice import Notice
from dreambooth_resume.storage.base import Storage


class RequestSource:
    """Reads `control/` on the heartbeat's thread; the training thread takes requests and reports them done."""

    def __init__(self, storage: Storage, *, monotonic: Callable[[], float]) -> None:
        self._storage = storage
        self._monotonic = monotonic
        self._next_look: float | None = None
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str, Request]] = {}
        self._answered: list[str] = []
        self._to_remove: set[str] = set()

    @property
    def answered(self) -> tuple[str, ...]:
        """Nonces of the requests that were carried out, for the status."""
        with self._lock:
            return tuple(self._answered)

    def look(self, interval_seconds: float = POLL_SECONDS) -> None:
        """Read what was asked, at most once in the interval. Raises what the storage raises."""
        now = self._monotonic()
        if self._next_look is not None and now < self._next_look:
            return
        self._next_look = now + min(interval_seconds, POLL_SECONDS)
        self._remove_answered()
        self._read()

    def notice(self) -> Notice | None:
        """The first request to stop, as a notice."""
        stops = self.open("stop")
        return Notice(source=f"dbr stop by {stops[0].asked_by}", exit_code=ON_PURPOSE) if stops else None

    def open(self, kind: str) -> list[Request]:
        """The requests of this kind that wait to be carried out."""
        with self._lock:
            return [request for _, request in self._open.values() if request.kind == kind]

    def done(self, requests: list[Request]) -> None:
        """These were carried out: say so in the status, and take them out of `control/` so that nobody does it again.

        Kill here: a request that is carried out and still there is read by the next attempt, which saves or stops
        once more than asked; nothing is lost by that.
        """
        with self._lock:
            self._to_remove |= {self._open.pop(request.nonce)[0] for request in requests if request.nonce in self._open}
            self._answered.extend(request.nonce for request in requests)
        # This is the training thread: storage trouble must not end it, nor change what it ends with. Removed later.
        with contextlib.suppress(StorageUnavailable, AccessDenied):
            self._remove_answered()

    def answer_stops(self) -> None:
        """This attempt ends, and nobody starts it again: that is what every stop has asked for, read so far or not.

        One that stayed would stop the next attempt, which its user wants to go on.
        """
        with contextlib.suppress(StorageUnavailable, AccessDenied):
            self._read()
        self.done(self.open("stop"))

    def _read(self) -> None:
        found = open_requests(self._storage)
        with self._lock:
            for key, request in found:
                if request.nonce not in self._answered:
                    self._open.setdefault(request.nonce, (key, request))

    def _remove_answered(self) -> None:
        with self._lock:
            keys = sorted(self._to_remove)
        for key in keys:
            self._storage.delete(key)
            with self._lock:
                self._to_remove.discard(key)
