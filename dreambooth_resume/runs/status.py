"""`status/0003.json`: an attempt's heartbeat, and what it is doing. A hint that may be stale, never the truth."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal

from pydantic import ValidationError

from dreambooth_resume.errors import DbrError, KeyNotFound
from dreambooth_resume.runs.entries import Process, Record
from dreambooth_resume.runs.home import status_key
from dreambooth_resume.storage.base import Storage

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 15.0

Phase = Literal["starting", "preparing", "training", "validating", "saving", "ended"]


class Resumed(Record):
    """What an attempt found when it went on from a checkpoint."""

    step: int
    """Of the state that it began with."""
    epoch: int
    sample: int
    """Its data position there: the first sample of the next step among those of its epoch. Both from 0."""
    epoch_length: int
    batch_size: int
    state: str | None = None
    """What of its state was not as committed when it began to train; None: every bit was."""
    jump: str | None = None
    """What differed in the steps that an attempt before it had made too, and the likely cause; None: nothing so far."""


class Status(Record):
    """What an attempt says of itself. `counter` moves with every heartbeat; the rest is for people."""

    attempt: int
    counter: int
    updated_at: str
    phase: Phase
    step: int
    max_train_steps: int
    loss: float | None = None
    learning_rate: float | None = None
    samples_per_second: float | None = None
    durable_step: int | None = None
    save_seconds: float | None = None
    """What its last save took, from the copy to the commit."""
    alarm: str | None = None
    """What the user should know now: storage trouble, commits that wait."""
    machine_seconds: float | None = None
    """Since this attempt's start."""
    process: Process
    exit_code: int | None = None
    why: str | None = None
    """Why it ended, in a line, where it ended with an error."""
    resumed: Resumed | None = None
    """None: it began at step 0, or is of a release that didn't look."""
    answered: tuple[str, ...] = ()
    """Nonces of the control requests that this attempt has carried out."""


def read_status(storage: Storage, attempt: int) -> Status | None:
    """The newest heartbeat of `attempt`, or None where there is none or it can't be read: it is a hint."""
    try:
        return Status.model_validate_json(storage.read(status_key(attempt)))
    except (KeyNotFound, ValidationError):
        return None


class Heartbeat:
    """A thread that runs `beat` again and again, at least every 15 s, until closed.

    `beat` is given a counter that moves each time. Storage trouble in it is kept as `trouble` and tried again at the
    next beat: a heartbeat that can't be written must not end the training.
    """

    def __init__(self, beat: Callable[[int], None], *, interval_seconds: float) -> None:
        self._beat = beat
        self._interval_seconds = min(interval_seconds, HEARTBEAT_SECONDS)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._counter = 0
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name="dbr-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def beat_now(self) -> None:
        """Beat on the calling thread, so that what just changed can be read by others when this returns."""
        with self._lock:
            self._counter += 1
            try:
                self._beat(self._counter)
                self.trouble = None
            except DbrError as error:
                self.trouble = str(error)

    def close(self) -> None:
        """Stop beating; waits for a beat in progress, at most a few seconds."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._closing.wait(self._interval_seconds):
            try:
                self.beat_now()
            except Exception:
                # A thread's root: without this the thread would die in silence and other machines would take over.
                logger.exception("The heartbeat failed; the next one is tried in %.0f s", self._interval_seconds)
