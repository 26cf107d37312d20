"""The thread that saves: one save in flight and one waiting, the newest replaces the waiting one."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from dreambooth_resume.checkpoint.snapshot import Snapshot
from dreambooth_resume.errors import AccessDenied, DbrError, StorageUnavailable

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A snapshot to commit, and why it was taken."""

    snapshot: Snapshot
    reason: str
    is_urgent: bool = False
    """Somebody waits for it: it is not kept waiting because an earlier save had trouble."""


class SaveThread:
    """Commits snapshots behind the training thread's back.

    Storage trouble is kept as `alarm` and tried again, newest snapshot first, for as long as the thread lives: it must
    not end the training. Anything else (fenced, a bug) ends the thread and is raised by `check`.
    """

    def __init__(
        self,
        commit: Callable[[Job], None],
        *,
        release: Callable[[Snapshot], None] = lambda _snapshot: None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """`commit` saves a job; `release` is told when nobody reads a snapshot any more."""
        self._commit = commit
        self._release = release
        self._retry_seconds = retry_seconds
        self._changed = threading.Condition()
        self._waiting: Job | None = None
        self._closing = False
        self._failure: BaseException | None = None
        self._in_flight: Job | None = None
        self.durable_step: int | None = None
        self.alarm: str | None = None
        self.save_seconds: float | None = None
        self._thread = threading.Thread(target=self._run, name="dbr-save", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def pending_step(self) -> int | None:
        """The newest step that is being saved or waits to be; None: nothing is."""
        with self._changed:
            job = self._waiting or self._in_flight
            return job.snapshot.step if job is not None else None

    def withdraw(self) -> None:
        """Drop what still waits: a newer snapshot is about to be taken, and may use its memory."""
        with self._changed:
            self._drop_waiting_locked()

    def submit(self, job: Job) -> None:
        """Queue `job` in place of one that still waits. Raises what ended the thread, if anything did."""
        with self._changed:
            self._check_locked()
            self._drop_waiting_locked()
            self._waiting = job
            self._changed.notify_all()

    def tell_durable(self, step: int) -> None:
        """For `commit`: the step is durable, though there is still something to tidy up."""
        with self._changed:
            self.durable_step, self.alarm = step, None
            self._changed.notify_all()

    def wait_until_durable(self, step: int, *, give_up: Callable[[], bool]) -> bool:
        """Wait until a checkpoint of `step` or later is committed; False if `give_up` said so first."""
        with self._changed:
            while self.durable_step is None or self.durable_step < step:
                self._check_locked()
                if give_up():
                    return False
                self._changed.wait(timeout=0.1)
        return True

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        with self._changed:
            self._check_locked()

    def close(self, *, timeout_seconds: float) -> None:
        """Stop after the save in flight; a save that takes longer than the timeout is left behind, uncommitted."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=timeout_seconds)

    def _drop_waiting_locked(self) -> None:
        if self._waiting is not None:
            self._release(self._waiting.snapshot)
            self._waiting = None

    def _check_locked(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._save(job)
        except BaseException as error:  # noqa: BLE001
            # A thread's root: the training thread raises it at its next look.
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next(self) -> Job | None:
        with self._changed:
            while self._waiting is None and not self._closing:
                self._changed.wait()
            job, self._waiting = self._waiting, None
            self._in_flight = None if self._closing else job
            return self._in_flight

    def _save(self, job: Job) -> None:
        started = time.monotonic()
        try:
            self._commit(job)
        except (StorageUnavailable, AccessDenied) as error:
            self._alarm(job, error)
            return
        finally:
            self._in_flight = None
        with self._changed:
            self.durable_step, self.alarm = job.snapshot.step, None
            self.save_seconds = time.monotonic() - started
            self._release(job.snapshot)
            self._changed.notify_all()
        logger.debug("Step %d committed in %.3f s", job.snapshot.step, self.save_seconds)

    def _alarm(self, job: Job, error: DbrError) -> None:
        """Keep the snapshot unless a newer one waits, and try again in a while, or at once if somebody waits for it."""
        with self._changed:
            # The words of the first try stand for the later ones: they differ in the step's key alone, and who shows
            # an alarm shows each that differs.
            if self.alarm is None or _without_keys(self.alarm) != _without_keys(str(error)):
                self.alarm = str(error)
            if self._waiting is None:
                self._waiting = job
            else:
                self._release(job.snapshot)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closing or self._has_urgent(other_than=job), self._retry_seconds)

    def _has_urgent(self, *, other_than: Job) -> bool:
        return self._waiting is not None and self._waiting is not other_than and self._waiting.is_urgent


def _without_keys(text: str) -> str:
    return re.sub(r"checkpoint-\S+|\d+", "", text)
