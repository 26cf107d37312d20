"""A file as a notice: for whatever else can say that this machine goes away, and take it back."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import yaml

from dreambooth_resume.preemption.signals import COME_BACK
from dreambooth_resume.runs.notice import Notice

_LARGEST_FILE_BYTES = 64 * 1024


class NoticeFile:
    """There: a notice. Gone again: withdrawn. Empty, or YAML with `end_time` (ISO 8601) or `seconds` that are left."""

    name = "file"
    interval_seconds = 1.0

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = path
        self._monotonic = monotonic
        self._now = now
        self._seen: tuple[str, float | None] | None = None
        self._was_empty = False

    def look(self) -> Notice | None:
        """The notice that holds now, or None. A file that can't be read or understood is a notice without a time.

        An empty one counts from the second look on: it may be about to be written.
        """
        try:
            with self._path.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_LARGEST_FILE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            self._seen, self._was_empty = None, False
            return None
        except OSError:
            text = ""
        if not text and not self._was_empty:
            self._was_empty = True
            return None
        if self._seen is None or self._seen[0] != text:
            left_seconds = self._left_seconds(text)
            self._seen = (text, None if left_seconds is None else self._monotonic() + left_seconds)
        return Notice(source=f"the notice file {self._path}", exit_code=COME_BACK, deadline_monotonic_s=self._seen[1])

    def _left_seconds(self, text: str) -> float | None:
        try:
            said = yaml.safe_load(text)
        except yaml.YAMLError:
            return None
        if not isinstance(said, dict):
            return None
        seconds, end = said.get("seconds"), said.get("end_time")
        if isinstance(seconds, int | float) and not isinstance(seconds, bool):
            return max(0.0, float(seconds))
        if isinstance(end, str):
            try:
                end = datetime.fromisoformat(end)
            except ValueError:
                return None
        if not isinstance(end, datetime):
            return None
        end = end if end.tzinfo else end.replace(tzinfo=UTC)
        return max(0.0, (end - self._now()).total_seconds())
