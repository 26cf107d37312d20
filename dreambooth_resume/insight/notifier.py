"""Sends messages to a web hook without ever making anything wait: a thread, a bounded queue, bounded tries."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from dreambooth_resume.insight.webhook import Address, Answer, Event, NotSent, body_of, post

logger = logging.getLogger(__name__)

PAUSES_SECONDS = (1.0, 3.0, 9.0)
"""Between the tries of one message; after the last it is dropped."""
LONGEST_PAUSE_SECONDS = 30.0
QUEUE_LIMIT = 50

Send = Callable[[Address, bytes], Answer]
Compose = Callable[[], Event]
"""Makes the message on the notifier's own thread, where reading the home for it holds nobody up."""


class Notifier:
    """One web hook and its thread. `put` returns at once; no method raises."""

    def __init__(
        self,
        address: Address,
        *,
        tell: Callable[[str], None],
        send: Send = post,
        pauses_seconds: tuple[float, ...] = PAUSES_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._address = address
        self._tell = tell
        self._send = send
        self._pauses_seconds = pauses_seconds
        self._sleep = sleep
        self._queue: queue.Queue[Compose | None] = queue.Queue(QUEUE_LIMIT)
        # A daemon: the end of the process must not wait for a web hook that hangs.
        self._thread = threading.Thread(target=self._run, name="dbr-notifier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, compose: Compose) -> None:
        """Send what `compose` makes. Where 50 wait already it is dropped: the web hook has been away for long."""
        try:
            self._queue.put_nowait(compose)
        except queue.Full:
            logger.debug("a message was dropped: %d wait", QUEUE_LIMIT)

    def close(self, *, timeout_seconds: float) -> None:
        """Send what waits, at most for so long, and end."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            timeout_seconds = 0.0
        self._thread.join(timeout=timeout_seconds)
        if self._thread.is_alive():
            self._tell(f"--notify: {self._address.shown} did not take the last message in time. Nothing else is lost.")

    def _run(self) -> None:
        while (compose := self._queue.get()) is not None:
            try:
                self._deliver(compose())
            except Exception as error:  # noqa: BLE001  the thread's root
                # One message that can't be made must not cost the next. The error's kind alone is told: its text may
                # hold the address.
                self._tell(f"--notify: a message could not be sent ({type(error).__name__}). Training is not affected.")

    def _deliver(self, event: Event) -> None:
        body = body_of(event, self._address.form)
        why = ""
        for pause_seconds in (*self._pauses_seconds, None):
            try:
                answer = self._send(self._address, body)
                if answer.is_taken:
                    return
                why, again, wished = f"HTTP {answer.status}", answer.may_be_asked_again, answer.retry_after_seconds
            except NotSent as error:
                why, again, wished = str(error), True, None
            if not again or pause_seconds is None:
                break
            self._sleep(min(max(pause_seconds, wished or 0.0), LONGEST_PAUSE_SECONDS))
        shown = self._address.shown
        self._tell(f"--notify: {shown} did not take the message `{event.kind}` ({why}). Training is not affected.")
