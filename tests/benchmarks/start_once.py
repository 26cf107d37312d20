"""`dbr train` in a fresh process, timed up to its first step; prints a JSON line and dies as if killed.

Usage: start_once.py SPAWNED_MONOTONIC_SECONDS WORDS_OF_TRAIN...
The splits come from what training tells its reporter, and from a meter around Python's import.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
import threading
import time
from typing import Any

SPAWNED = float(sys.argv[1])


class ImportMeter:
    """Seconds that the main thread has spent importing, wherever it did."""

    def __init__(self) -> None:
        self.seconds = time.monotonic() - SPAWNED  # Python's own start
        self._import = builtins.__import__
        self._depth = 0
        self._main = threading.get_ident()
        builtins.__import__ = self

    def __call__(self, *args: Any, **named: Any) -> Any:
        if self._depth or threading.get_ident() != self._main:
            return self._import(*args, **named)
        self._depth = 1
        began = time.monotonic()
        try:
            return self._import(*args, **named)
        finally:
            self._depth = 0
            self.seconds += time.monotonic() - began


class SplitReporter:
    """Turns what training tells its reporter into the seconds of each part, imports apart."""

    def __init__(self, meter: ImportMeter) -> None:
        self._meter = meter
        self._parts: dict[str, float] = {}
        self._since = (SPAWNED, 0.0)
        self._steps = 0

    def _end(self, part: str) -> None:
        now, imported = time.monotonic(), self._meter.seconds
        spent = now - self._since[0] - (imported - self._since[1])
        self._parts[part] = self._parts.get(part, 0.0) + spent
        self._since = (now, imported)

    def message(self, text: str) -> None:
        if text.startswith("Loading"):
            self._end("caching")
        elif "caching" in self._parts and "loading" not in self._parts:
            self._end("loading")  # the message that says where this attempt begins

    def phase(self, name: str, done: int, total: int) -> None:
        if "reading" not in self._parts:
            self._end("reading")

    def step(self, update: Any) -> None:
        self._steps += 1
        if self._steps == 1:
            self._end("first step")
            self._parts["imports"] = self._meter.seconds
            self._parts["all"] = time.monotonic() - SPAWNED
            self._parts["of a processor"] = time.process_time()
        if update.durable_step:
            print(json.dumps(self._parts), flush=True)
            os._exit(0)

    def close(self) -> None: ...


def main() -> None:
    meter = ImportMeter()
    from dreambooth_resume.config.load import parse_train
    from dreambooth_resume.workflows.train import train

    train(parse_train(sys.argv[2:]), SplitReporter(meter))
    sys.exit("training ended before a checkpoint was durable")


main()
