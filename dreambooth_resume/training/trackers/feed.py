"""Feeds trackers without ever making the training wait, or end: a thread each, a bounded queue, errors said once."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreambooth_resume.training.trackers.base import Tracker
from dreambooth_resume.training.trackers.series import SentRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000
"""Steps that a tracker may be behind; what comes on top is left out of it, and said once."""
BATCH_SECONDS = 2.0
"""How long steps are gathered before they are noted and sent."""
THREAD_NAME = "dbr-tracker"

Values = Mapping[str, float]
Backlog = Callable[[int], Iterable[tuple[int, Values]]]
"""Steps of the run behind the given one that earlier attempts made, from the home."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pictures:
    step: int
    phase: str
    prompt: str
    pictures: Sequence[NDArray[np.uint8]]


class Feed:
    """One tracker and its thread. `put` is called by the training thread and returns at once."""

    def __init__(
        self,
        name: str,
        open_tracker: Callable[[], Tracker],
        *,
        record: SentRecord,
        backlog: Backlog,
        tell: Callable[[str], None],
        batch_seconds: float = BATCH_SECONDS,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._name = name
        self._open = open_tracker
        self._record = record
        self._backlog = backlog
        self._tell = tell
        self._batch_seconds = batch_seconds
        self._queue: queue.Queue[tuple[int, Values] | _Pictures] = queue.Queue(queue_limit)
        self._closing = threading.Event()
        self._is_off = False
        self._is_full_said = False
        self._last = 0
        # A daemon: the end of the process must not wait for a tracker that hangs.
        self._thread = threading.Thread(target=self._run, name=f"{THREAD_NAME}-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: tuple[int, Values] | _Pictures) -> None:
        if self._is_off:
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            if not self._is_full_said:
                self._is_full_said = True
                self._tell(
                    f"{self._name} is {self._queue.maxsize} steps behind; what does not fit is left out of it. "
                    "Training is not slowed, and the home has every step."
                )

    def begin_closing(self) -> None:
        self._closing.set()

    def wait(self, deadline_monotonic_s: float) -> None:
        self._thread.join(timeout=max(0.0, deadline_monotonic_s - time.monotonic()))
        if self._thread.is_alive():
            self._tell(f"{self._name} did not take the last steps in time and is left behind. The home has every step.")

    def _run(self) -> None:
        try:
            self._feed()
        except BaseException as error:
            # The thread's root: whatever a tracker's library does, SystemExit included, ends this tracker and no more.
            self._is_off = True
            logger.info("%s", self._name, exc_info=True)
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            self._tell(
                f"{self._name} gets no more steps ({reason}). Training goes on without it, and the home has every "
                "step; the next start tries again."
            )

    def _feed(self) -> None:
        tracker = self._open()
        known = tracker.last_step()
        self._last = self._record.before(self._name) if known is None else known
        self._send(tracker, [*self._backlog(self._last)])
        while not self._closing.wait(self._batch_seconds):
            self._send(tracker, self._waiting())
        self._send(tracker, self._waiting())
        tracker.close()

    def _waiting(self) -> list[tuple[int, Values] | _Pictures]:
        # No more than was there: a training that is faster than the tracker would keep this going for ever.
        return [self._queue.get_nowait() for _ in range(self._queue.qsize())]

    def _send(self, tracker: Tracker, items: Sequence[tuple[int, Values] | _Pictures]) -> None:
        """Send what the series does not have yet, in order."""
        steps = [item[0] for item in items if not isinstance(item, _Pictures) and item[0] > self._last]
        if steps:
            self._record.note(self._name, max(steps))
        for item in items:
            if isinstance(item, _Pictures):
                tracker.pictures(item.step, item.phase, item.prompt, item.pictures)
            elif item[0] > self._last:
                tracker.scalars(item[0], item[1])
                self._last = item[0]
        if items:
            tracker.flush()


class Trackers:
    """All trackers of an attempt. The methods are called on the training thread; none waits but `close`."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = tuple(feeds)

    def start(self) -> None:
        for feed in self._feeds:
            feed.start()

    def log(self, step: int, values: Values) -> None:
        for feed in self._feeds:
            feed.put((step, values))

    def show(self, step: int, phase: str, prompt: str, pictures: Sequence[NDArray[np.uint8]]) -> None:
        for feed in self._feeds:
            feed.put(_Pictures(step=step, phase=phase, prompt=prompt, pictures=pictures))

    def close(self, *, timeout_seconds: float) -> None:
        """Send what waits and end, at most for so long."""
        deadline = time.monotonic() + timeout_seconds
        for feed in self._feeds:
            feed.begin_closing()
        for feed in self._feeds:
            feed.wait(deadline)
