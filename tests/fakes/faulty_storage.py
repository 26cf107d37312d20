"""A home whose k-th call goes wrong, in each of the ways in which storage does."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from dreambooth_resume.errors import OutcomeUnknown, StorageUnavailable
from dreambooth_resume.storage.base import Body, SinkKind, Storage, StoredDigest, StoredObject

Answer = TypeVar("Answer")


class Died(BaseException):
    """The process ended here. No `except Exception` of ours may survive it."""


class Fault(enum.Enum):
    """What becomes of the one call that goes wrong."""

    FAILS = "fails, nothing happened"
    LOST_ANSWER = "happened, the answer was lost"
    LANDS_LATE = "fails, and happens after the next call"
    DAMAGES = "stores one flipped bit, says nothing"
    DIES_BEFORE = "the process ends before it"
    DIES_AFTER = "the process ends after it"
    DIES_AND_LANDS = "the process ends before it, and it happens when `land` is called"


class FaultyStorage:
    """`inner`, with `fault` at call number `at` (1 is the first). Reads count as calls too."""

    def __init__(self, inner: Storage, *, at: int = 0, fault: Fault = Fault.FAILS) -> None:
        self.inner = inner
        self.hint_interval_seconds = inner.hint_interval_seconds
        self.requests_at_once = inner.requests_at_once
        self.at = at
        self.fault = fault
        self.count = 0
        self.went_wrong: str | None = None
        self._late: Callable[[], object] | None = None
        self._lock = threading.RLock()

    def describe(self) -> str:
        return self.inner.describe()

    def read(self, key: str) -> bytes:
        return self._call(f"read {key}", lambda: self.inner.read(key))

    def download(self, key: str, new_sink: Callable[[], SinkKind]) -> SinkKind:
        return self._call(f"download {key}", lambda: self.inner.download(key, new_sink))

    def write(self, key: str, parts: Sequence[Body], *, durable: bool = True) -> None:
        body = b"".join(parts)
        damaged = _flipped(body)
        self._call(
            f"write {key}",
            lambda: self.inner.write(key, [body], durable=durable),
            changes=True,
            damaging=lambda: self.inner.write(key, [damaged], durable=durable),
        )

    def put_if_absent(self, key: str, body: bytes) -> bool:
        return self._call(f"put {key}", lambda: self.inner.put_if_absent(key, body), changes=True)

    def digest(self, key: str) -> StoredDigest:
        return self._call(f"digest {key}", lambda: self.inner.digest(key))

    def holds(self, key: str, parts: Sequence[Body], *, sha256: str) -> bool:
        return self._call(f"holds {key}", lambda: self.inner.holds(key, parts, sha256=sha256))

    def folders(self, prefix: str = "") -> list[str]:
        return self._call(f"folders {prefix}", lambda: self.inner.folders(prefix))

    def list(self, prefix: str = "") -> list[StoredObject]:
        return self._call(f"list {prefix}", lambda: self.inner.list(prefix))

    def delete(self, key: str) -> None:
        self._call(f"delete {key}", lambda: self.inner.delete(key), changes=True)

    def claim(self, attempt: int) -> None:
        self._call(f"claim {attempt}", lambda: self.inner.claim(attempt), changes=True)

    def free_bytes(self) -> int | None:
        return self.inner.free_bytes()

    def land(self) -> None:
        """What was late happens now."""
        with self._lock:
            late, self._late = self._late, None
        if late is not None:
            late()

    def _call(
        self,
        name: str,
        effect: Callable[[], Answer],
        *,
        changes: bool = False,
        damaging: Callable[[], Answer] | None = None,
    ) -> Answer:
        with self._lock:
            self.count += 1
            if self.count != self.at:
                answer = effect()
                if self.fault is Fault.LANDS_LATE:
                    self.land()
                return answer
            self.went_wrong = name
            if changes:
                return self._change_wrongly(name, effect, damaging or effect)
            if self.fault in (Fault.FAILS, Fault.LOST_ANSWER, Fault.LANDS_LATE):
                raise StorageUnavailable(f"{name}: no answer")
            if self.fault is Fault.DAMAGES:
                return effect()
            raise Died(name)

    def _change_wrongly(self, name: str, effect: Callable[[], Answer], damaging: Callable[[], Answer]) -> Answer:
        match self.fault:
            case Fault.FAILS:
                raise StorageUnavailable(f"{name}: no answer")
            case Fault.LOST_ANSWER:
                effect()
                raise OutcomeUnknown(f"{name}: the answer was lost")
            case Fault.LANDS_LATE:
                self._late = effect
                raise OutcomeUnknown(f"{name}: still on its way")
            case Fault.DAMAGES:
                return damaging()
            case Fault.DIES_BEFORE:
                raise Died(name)
            case Fault.DIES_AFTER:
                effect()
                raise Died(name)
            case Fault.DIES_AND_LANDS:
                self._late = effect
                raise Died(name)


def _flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else b"\0"
