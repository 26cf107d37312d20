"""A process is started with signals held back: one that came in between would end us, and leave the process behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """What would raise an exception by a handler of ours does so at the end of the block, and not within it.

    Only handlers in Python are put off, and only they could cut a call short. Signals come to the main thread alone; on
    another one nothing is changed. What is started in the block has the signals' defaults, as without it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    before = {number: handler for number in _ENDING if callable(handler := signal.getsignal(number))}
    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            before[signal.Signals(late)](late, None)
