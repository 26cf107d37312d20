"""A home in memory that keeps the storage contract, counts its calls, and can be made to fail at any of them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.storage.base import Body, SinkKind, StoredDigest, StoredObject


class MemoryStorage:
    """`objects` may be looked at and damaged by tests. `before(call, key)` may raise in place of a call."""

    hint_interval_seconds = 1.0
    refuses_a_second_writer = True

    def __init__(
        self,
        *,
        name: str = "memory://home",
        before: Callable[[str, str], None] | None = None,
        requests_at_once: int = 1,
    ) -> None:
        self.requests_at_once = requests_at_once
        self.objects: dict[str, bytes] = {}
        self.calls: list[tuple[str, str]] = []
        self.before = before
        self.attempt: int | None = None
        self._name = name
        self._lock = threading.Lock()

    def describe(self) -> str:
        return self._name

    def read(self, key: str) -> bytes:
        self._called("read", key)
        with self._lock:
            return self._body(key)

    def download(self, key: str, new_sink: Callable[[], SinkKind]) -> SinkKind:
        self._called("download", key)
        with self._lock:
            body = self._body(key)
        sink = new_sink()
        for start in range(0, len(body), 1000):
            sink.update(body[start : start + 1000])
        return sink

    def write(self, key: str, parts: Sequence[Body], *, durable: bool = True) -> None:
        self._called("write", key)
        body = b"".join(parts)
        with self._lock:
            self.objects[key] = body

    def put_if_absent(self, key: str, body: bytes) -> bool:
        self._called("put_if_absent", key)
        with self._lock:
            if key in self.objects:
                return False
            self.objects[key] = bytes(body)
            return True

    def digest(self, key: str) -> StoredDigest:
        self._called("digest", key)
        with self._lock:
            body = self._body(key)
        return StoredDigest(size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())

    def holds(self, key: str, parts: Sequence[Body], *, sha256: str) -> bool:
        self._called("holds", key)
        with self._lock:
            body = self._body(key)
        return body == b"".join(parts) and hashlib.sha256(body).hexdigest() == sha256

    def folders(self, prefix: str = "") -> list[str]:
        self._called("folders", prefix)
        with self._lock:
            below = [key.removeprefix(prefix) for key in self.objects if key.startswith(prefix)]
        return sorted({f"{prefix}{key.partition('/')[0]}/" for key in below if "/" in key})

    def list(self, prefix: str = "") -> list[StoredObject]:
        self._called("list", prefix)
        with self._lock:
            found = sorted((key, len(body)) for key, body in self.objects.items() if key.startswith(prefix))
        return [StoredObject(key=key, size_bytes=size_bytes) for key, size_bytes in found]

    def delete(self, key: str) -> None:
        self._called("delete", key)
        with self._lock:
            self.objects.pop(key, None)

    def claim(self, attempt: int) -> None:
        self._called("claim", "")
        self.attempt = attempt

    def free_bytes(self) -> int | None:
        return None

    def count(self, call: str) -> int:
        """How often `call` was made."""
        return sum(1 for made, _ in self.calls if made == call)

    def _called(self, call: str, key: str) -> None:
        self.calls.append((call, key))
        if self.before is not None:
            self.before(call, key)

    def _body(self, key: str) -> bytes:
        try:
            return self.objects[key]
        except KeyError:
            raise KeyNotFound(key) from None
