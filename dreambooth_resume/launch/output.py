"""What is printed under supervision, copied to a home that isn't on this machine: `dbr logs` works wherever it ran.

Killed in between, the last seconds of output are missing. Only the last piece is ever rewritten.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from dreambooth_resume.errors import DbrError, KeyNotFound
from dreambooth_resume.runs.home import OUTPUT_PREFIX, output_key
from dreambooth_resume.storage.base import Storage

PIECE_BYTES = 256 * 1024
PIECES_AT_MOST = 400
"""100 MB. What is printed behind them is not copied: something prints without end."""
_FOLLOW_SECONDS = 2.0
_LOG = logging.getLogger(__name__)


class OutputCopy:
    """Copies what is appended to `file` from now on, every `interval_seconds` and at the end."""

    def __init__(
        self,
        storage: Storage,
        file: Path,
        *,
        prefix: str = OUTPUT_PREFIX,
        interval_seconds: float | None = None,
        piece_bytes: int = PIECE_BYTES,
        pieces_at_most: int = PIECES_AT_MOST,
    ) -> None:
        self._storage = storage
        self._file, self._prefix = file, prefix
        self._interval_seconds = storage.hint_interval_seconds if interval_seconds is None else interval_seconds
        self._piece_bytes, self._pieces_at_most = piece_bytes, pieces_at_most
        # The time sorts supervisors for who reads; nothing is decided by it.
        self._supervisor = f"{time.time_ns():016x}{uuid.uuid4().hex[:16]}"
        self._begins_at, self._number, self._copied = file.stat().st_size, 1, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dbr-output", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, *, timeout_seconds: float = 10.0) -> None:
        """Copy the rest, unless that takes too long."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def copy(self) -> None:
        """Copy what there is and isn't copied yet. Raises what the storage does."""
        with self._file.open("rb") as file:
            while self._number <= self._pieces_at_most:
                file.seek(self._begins_at)
                piece = file.read(self._piece_bytes)
                if len(piece) > self._copied:
                    key = output_key(self._supervisor, self._number, prefix=self._prefix)
                    self._storage.write(key, [piece], durable=False)
                    self._copied = len(piece)
                if len(piece) < self._piece_bytes:
                    return
                self._begins_at, self._number, self._copied = self._begins_at + self._piece_bytes, self._number + 1, 0

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._end.wait(self._interval_seconds)
            try:
                # A hint: what can't be written now comes with the next copy.
                with contextlib.suppress(DbrError, OSError):
                    self.copy()
            except Exception:  # noqa: BLE001
                # A thread's root: the training must not end for it, nor the trouble go unseen.
                _LOG.exception("The output is not copied any more")
                return


def copied_lines(
    storage: Storage, *, is_over: Callable[[], bool], prefix: str = OUTPUT_PREFIX, piece_bytes: int = PIECE_BYTES
) -> Iterator[str] | None:
    """The lines that the newest supervisor printed, as far as they are copied; None where nothing is.

    After the last line, more is waited for until `is_over`.
    """
    supervisors = storage.folders(prefix)
    return _lines(storage, supervisors[-1], is_over, piece_bytes) if supervisors else None


def last_copied_lines(storage: Storage, *, prefix: str = OUTPUT_PREFIX, pieces: int = 2) -> list[str] | None:
    """The end of what `copied_lines` would give, as far as the last `pieces` have it, however long the whole is."""
    supervisors = storage.folders(prefix)
    if not supervisors:
        return None
    keys = sorted(found.key for found in storage.list(supervisors[-1]))
    text = b"".join(_piece(storage, key) or b"" for key in keys[-pieces:])
    lines = text.decode(errors="replace").removesuffix("\n").split("\n") if text else []
    return lines[1:] if len(keys) > pieces else lines  # the first one may have begun in the piece before


def _lines(storage: Storage, folder: str, is_over: Callable[[], bool], piece_bytes: int) -> Iterator[str]:
    number, offset, begun = 1, 0, b""
    while True:
        over = is_over()
        while (piece := _piece(storage, f"{folder}{number:05d}.txt")) is not None:
            *whole, begun = (begun + piece[offset:]).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
            offset = len(piece)
            if offset < piece_bytes:
                break
            number, offset = number + 1, 0
        if over:
            if begun:
                yield begun.decode(errors="replace")
            return
        time.sleep(_FOLLOW_SECONDS)


def _piece(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.read(key)
    except KeyNotFound:
        return None
