"""How often the threads of a process take turns with the interpreter while one of them trains."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH_INTERVAL_SECONDS = 0.0005
"""A tenth of Python's own. A training step lends the interpreter out at each of its kernels, and wants it back when the
kernel ends; the save beside it, which has Python to run in every file, may keep it for this long."""


@contextmanager
def short_turns() -> Iterator[None]:
    """Threads hand the interpreter on after SWITCH_INTERVAL_SECONDS in here, and as they did before afterwards."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_INTERVAL_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
