"""The lines of a file that somebody else writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

_FOLLOW_SECONDS = 0.25


def growing_lines(path: Path, *, is_over: Callable[[], bool]) -> Iterator[str]:
    """The lines of a file that grows; the rest is read once more after it is over."""
    with path.open(encoding="utf-8", errors="replace") as file:
        begun = ""
        while True:
            over = is_over()
            while piece := file.readline():
                begun += piece
                if begun.endswith("\n"):
                    yield begun[:-1]
                    begun = ""
            if over:
                if begun:
                    yield begun
                return
            time.sleep(_FOLLOW_SECONDS)
