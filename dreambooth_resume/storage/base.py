"""What a store must do to be a run's home. These comments are the contract; `tests/contracts` checks every line of it.

A key is a relative POSIX path (`log/00000001.json`). A body is whole or absent: no reader ever sees half of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

Body = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A key and the size in bytes of what lies under it."""

    key: str
    size_bytes: int
    version: str = field(default="", compare=False)
    """Another one for every other body, where the store has such: S3's entity tag. Empty: it tells nothing."""
    modified_at: float | None = field(default=None, compare=False)
    """When it was written, in seconds since 1970 by the store's own clock. None: it tells nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDigest:
    """What the store holds under a key, read back from it."""

    size_bytes: int
    sha256: str


class Sink(Protocol):
    """Takes a body piece by piece, as hashlib's objects do."""

    def update(self, piece: bytes, /) -> None: ...


SinkKind = TypeVar("SinkKind", bound=Sink)


class Storage(Protocol):
    """A home's keys.

    Every method raises AccessDenied when the store refuses us, StorageUnavailable when it fails or does not answer, and
    KeyNotFound only when the key is certainly absent: a failed read must never look like an empty home.
    """

    @property
    def hint_interval_seconds(self) -> float:
        """How often hints (heartbeat, curves) may be rewritten here without costing anybody anything."""
        ...

    @property
    def requests_at_once(self) -> int:
        """How many requests one task here may have under way: 1 where an answer takes no round trip."""
        ...

    @property
    def refuses_a_second_writer(self) -> bool:
        """Is `put_if_absent` one atomic request? False only where the store has none and the user accepted that."""
        ...

    def describe(self) -> str:
        """What the user types to name this home."""
        ...

    def read(self, key: str) -> bytes:
        """The whole body of `key`."""
        ...

    def download(self, key: str, new_sink: Callable[[], SinkKind]) -> SinkKind:
        """A sink that has taken the whole body of `key` piece by piece, for bodies that needn't be in memory at once.

        `new_sink` is asked for another one each time that the body has to be begun again; the last one counts.
        """
        ...

    def write(self, key: str, parts: Sequence[Body], *, durable: bool = True) -> None:
        """Store the joined `parts` under `key`, replacing what was there, all at once.

        When it returns, a power cut loses nothing (with `durable=False`, for hints, it may).
        """
        ...

    def put_if_absent(self, key: str, body: bytes) -> bool:
        """Create `key` with `body`; False if the key exists already, which then stays as it is.

        Of any number of callers, on any number of machines, one gets True. Raises OutcomeUnknown if the request was
        sent and its outcome isn't known: read the key to find out.
        """
        ...

    def digest(self, key: str) -> StoredDigest:
        """Size and SHA-256 of what is stored, read from the store and not from what was sent."""
        ...

    def holds(self, key: str, parts: Sequence[Body], *, sha256: str) -> bool:
        """Whether the store holds exactly `parts` under `key`; for their writer, who wants to be sure of it.

        Read from the store, as `digest` is. `sha256` is that of the joined `parts`.
        """
        ...

    def folders(self, prefix: str = "") -> list[str]:
        """The folders right below `prefix` (empty, or ending in a slash) that hold keys, sorted, each with its slash.

        Does not walk through them: one request for up to a thousand, however much lies in them.
        """
        ...

    def list(self, prefix: str = "") -> list[StoredObject]:
        """Every key that starts with `prefix`, sorted. Unfinished writes and foreign files' temporaries never show."""
        ...

    def delete(self, key: str) -> None:
        """Remove `key`; a key that isn't there is fine."""
        ...

    def claim(self, attempt: int) -> None:
        """Unfinished writes belong to `attempt` from now on; those of lower attempts are removed.

        Called once, after the attempt's `adopt` is durable: before it a lower attempt may still be writing for good.
        """
        ...

    def free_bytes(self) -> int | None:
        """Room left for this home, or None where nobody can know."""
        ...
