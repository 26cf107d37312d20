"""Which curve of a tracker an attempt goes on with, and how far it was sent.

One series a run, over any number of attempts. After going back on purpose the steps behind that point are other ones:
they get a series of their own, which names the one before.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping

from pydantic import JsonValue, ValidationError

from dreambooth_resume.errors import AccessDenied, KeyNotFound, StorageUnavailable
from dreambooth_resume.runs.entries import Adopt, Record
from dreambooth_resume.runs.home import TRACKERS_PREFIX, trackers_key
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.training.trackers.base import Series


def series_of(log: Log, *, run_id: str, name: str, options: Mapping[str, JsonValue]) -> Series:
    """The series of the log's newest attempt. `name` is what people call the run."""
    short = f"{name}-{run_id[:6]}"
    series = Series(id=run_id, name=short, run_id=run_id, after_step=0, linked_to=None, options=options)
    for entry in log.entries:
        if isinstance(entry.body, Adopt) and entry.body.going_back is not None:
            series = Series(
                id=hashlib.sha256(f"{run_id} {entry.attempt}".encode()).hexdigest()[:32],
                name=f"{short}-from-{entry.state.step}-a{entry.attempt}",
                run_id=run_id,
                after_step=entry.state.step,
                linked_to=series.id,
                options=options,
            )
    return series


class SentSteps(Record):
    """`trackers/0003.json`: the last step that attempt 3 sent to each tracker."""

    series: str
    sent: dict[str, int]


class SentRecord:
    """Remembers in the home how far each tracker was told. Used by the trackers' threads.

    A step is noted before it is sent: a kill in between leaves it out of a tracker that can't tell itself what it has,
    rather than sending it twice.
    """

    def __init__(self, storage: Storage, series: Series, *, attempt: int) -> None:
        self._storage = storage
        self._series = series
        self._attempt = attempt
        self._lock = threading.Lock()
        self._sent: dict[str, int] = {}

    def before(self, tracker: str) -> int:
        """The last step of this series that earlier attempts sent. Raises what the storage raises."""
        found = [self._series.after_step]
        for listed in self._storage.list(TRACKERS_PREFIX):
            try:
                noted = SentSteps.model_validate_json(self._storage.read(listed.key))
            except (KeyNotFound, ValidationError):
                continue
            if noted.series == self._series.id:
                found.append(noted.sent.get(tracker, 0))
        return max(found)

    def note(self, tracker: str, step: int) -> None:
        """Storage trouble is passed over: the next note says more, and the training's own alarm is loud enough."""
        with self._lock:
            self._sent[tracker] = step
            body = SentSteps(series=self._series.id, sent=dict(sorted(self._sent.items())))
            try:
                self._storage.write(trackers_key(self._attempt), [body.model_dump_json().encode()], durable=False)
            except (StorageUnavailable, AccessDenied):
                return
