"""`metrics/0003-00002.jsonl`: what each step of an attempt measured. The log says which of them count."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping

from dreambooth_resume.runs.home import metrics_key, metrics_segment
from dreambooth_resume.storage.base import Storage


class MetricsSink:
    """Gathers a line a step and writes whole segments of 1,000 steps. Only the newest segment is ever rewritten.

    `log` is called by the training thread and costs no I/O; `flush` by the save thread before a commit, and by the
    heartbeat.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        attempt: int,
        listener: Callable[[int, Mapping[str, float]], None] = lambda _step, _values: None,
    ) -> None:
        """`listener` is told every line on the training thread, and must return at once."""
        self._storage = storage
        self._attempt = attempt
        self._listener = listener
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._lines: dict[int, list[str]] = defaultdict(list)
        self._unwritten: set[int] = set()

    def log(self, step: int, values: dict[str, float]) -> None:
        line = json.dumps({"step": step, **values}, allow_nan=True)
        segment = metrics_segment(step)
        with self._lock:
            self._lines[segment].append(line)
            self._unwritten.add(segment)
        self._listener(step, values)

    def flush(self, *, durable: bool) -> None:
        """Write what is new. Raises what the storage raises; nothing is lost then, the next flush writes it."""
        with self._write_lock:
            with self._lock:
                changed = {segment: "\n".join(self._lines[segment]) + "\n" for segment in sorted(self._unwritten)}
                self._unwritten.clear()
            for segment, text in changed.items():
                try:
                    self._storage.write(metrics_key(self._attempt, segment), [text.encode()], durable=durable)
                except BaseException:
                    with self._lock:
                        self._unwritten.update(later for later in changed if later >= segment)
                    raise
            self._forget_full_segments()

    def _forget_full_segments(self) -> None:
        """A segment is complete once a later one has begun and it was written: it is not needed in memory again."""
        with self._lock:
            newest = max(self._lines, default=0)
            for segment in [one for one in self._lines if one < newest and one not in self._unwritten]:
                del self._lines[segment]
