"""All sources of notices behind one question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dreambooth_resume.runs.notice import Notice


class NoticeSource(Protocol):
    """Something that may ask this attempt to end. `notice` only reads a value: it is asked at every step."""

    def notice(self) -> Notice | None: ...


class Watcher:
    """Asks every source; the most insistent notice wins, the first source among equals."""

    def __init__(self, sources: Sequence[NoticeSource]) -> None:
        self._sources = tuple(sources)

    def notice(self) -> Notice | None:
        found = [notice for source in self._sources if (notice := source.notice()) is not None]
        return max(found, key=lambda notice: notice.insistence, default=None)

    def should_stop(self) -> bool:
        """For loops that have nothing to save: look, and leave."""
        return self.notice() is not None
