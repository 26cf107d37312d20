"""Is the home's folder still the one it was? A disk that is unmounted leaves a bare folder of the same name behind.

Written there, a checkpoint would be durable and lost; read there, the home would look empty.
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path

from dreambooth_resume.errors import StorageUnavailable

_KEYS_REMEMBERED = 8


class SameFolder:
    """Knows a folder by its device and inode, or, where those change (network mounts), by what last lay in it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._identity: tuple[int, int] | None = None
        self._created: deque[str] = deque(maxlen=_KEYS_REMEMBERED)
        self._read: str | None = None
        self._lock = threading.Lock()

    def has_given(self, key: str) -> None:
        """`key` was just read from the folder."""
        self._read = key

    def has_taken(self, key: str) -> None:
        """`key` was just created in the folder, or found there by who wanted to create it."""
        with self._lock:
            self._created.append(key)

    def has_lost(self, key: str) -> None:
        """`key` is about to be deleted."""
        with self._lock:
            self._created = deque((other for other in self._created if other != key), maxlen=_KEYS_REMEMBERED)
            self._read = None if self._read == key else self._read

    def check(self) -> None:
        """Raises StorageUnavailable if the folder was there before and isn't now, or another one is in its place."""
        try:
            found = self._root.stat()
        except OSError:
            if self._identity is None:
                return
            raise self._gone() from None
        identity = (found.st_dev, found.st_ino)
        if self._identity not in (None, identity) and not self._holds_what_it_held():
            raise self._gone()
        self._identity = identity

    def _holds_what_it_held(self) -> bool:
        # What we created last: an old run of the same name may lie in the folder below a mount.
        with self._lock:
            key = self._created[-1] if self._created else self._read
        return key is None or (self._root / key).exists()

    def _gone(self) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self._root} is no longer there. Was it moved, or its disk unmounted? Put it back where it was."
        )
