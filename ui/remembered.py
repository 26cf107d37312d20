"""A home's storage that reads only once what is never written again, so that a page can be drawn anew each second."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from dreambooth_resume.runs.home import LOG_PREFIX, NOTES_PREFIX, RUN, is_samples_list
from dreambooth_resume.storage.base import Body, SinkKind, Storage, StoredDigest, StoredObject

_BYTES_KEPT = 4_000_000
"""For one home. A log of a thousand entries is about 2 MB; beyond that the oldest are read again."""

_Written = tuple[int, str, float | None]
"""Size, version and moment of a key, as it was listed."""


class RememberedStorage:
    """Passes everything on to `storage`, and keeps the bodies of keys that are put once and stay as they are."""

    def __init__(self, storage: Storage, *, bytes_kept: int = _BYTES_KEPT) -> None:
        self._storage = storage
        self._bytes_kept = bytes_kept
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._log: dict[str, _Written] = {}
        self._replaced = 0
        self._lock = threading.Lock()

    @property
    def hint_interval_seconds(self) -> float:
        return self._storage.hint_interval_seconds

    @property
    def requests_at_once(self) -> int:
        return self._storage.requests_at_once

    @property
    def refuses_a_second_writer(self) -> bool:
        return self._storage.refuses_a_second_writer

    @property
    def replaced(self) -> int:
        """How often the run that lies here was seen to be gone, or another one: what was made of it counts no more."""
        return self._replaced

    def describe(self) -> str:
        return self._storage.describe()

    def read(self, key: str) -> bytes:
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        body = self._storage.read(key)
        if _is_put_once(key):
            self._keep(key, body)
        return body

    def forget(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._kept.clear()
            self._size = 0

    def download(self, key: str, new_sink: Callable[[], SinkKind]) -> SinkKind:
        return self._storage.download(key, new_sink)

    def write(self, key: str, parts: Sequence[Body], *, durable: bool = True) -> None:
        self._storage.write(key, parts, durable=durable)

    def put_if_absent(self, key: str, body: bytes) -> bool:
        return self._storage.put_if_absent(key, body)

    def digest(self, key: str) -> StoredDigest:
        return self._storage.digest(key)

    def holds(self, key: str, parts: Sequence[Body], *, sha256: str) -> bool:
        return self._storage.holds(key, parts, sha256=sha256)

    def folders(self, prefix: str = "") -> list[str]:
        return self._storage.folders(prefix)

    def list(self, prefix: str = "") -> list[StoredObject]:
        found = self._storage.list(prefix)
        if prefix == LOG_PREFIX:
            self._compare({one.key: (one.size_bytes, one.version, one.modified_at) for one in found})
        return found

    def delete(self, key: str) -> None:
        self._storage.delete(key)
        with self._lock:
            self._size -= len(self._kept.pop(key, b""))

    def claim(self, attempt: int) -> None:
        self._storage.claim(attempt)

    def free_bytes(self) -> int | None:
        return self._storage.free_bytes()

    def _compare(self, log: dict[str, _Written]) -> None:
        """Forget everything unless this is the log that was listed before, or has grown from it.

        An entry never changes. One that did is of a run that was deleted and begun anew while nobody looked; and as
        long as a log is empty nothing of the run is final.
        """
        with self._lock:
            before, self._log = self._log, log
            both = before.keys() & log.keys()
            if both and all(before[key] == log[key] for key in both):
                return
            self._replaced += bool(before)
        self.forget()

    def _keep(self, key: str, body: bytes) -> None:
        with self._lock:
            self._size += len(body) - len(self._kept.pop(key, b""))
            self._kept[key] = body
            while self._size > self._bytes_kept and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._size -= len(dropped)


def _is_put_once(key: str) -> bool:
    return key == RUN or key.startswith((LOG_PREFIX, NOTES_PREFIX)) or is_samples_list(key)
