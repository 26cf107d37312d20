"""When to save, what to wait for, and how an attempt's last entries are written."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

import numpy as np

from dreambooth_resume.checkpoint.commit import Committer
from dreambooth_resume.checkpoint.snapshot import CopyBytes, Snapshot, Snapshotable, Snapshotter
from dreambooth_resume.checkpoint.writer import RETRY_SECONDS, Job, SaveThread
from dreambooth_resume.errors import AccessDenied, StorageUnavailable
from dreambooth_resume.runs.entries import CheckpointRef, Commit, Entry, Finished, Stopped

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0
_HURRIED_SECONDS = 15.0


class CheckpointManager:
    """The training loop's view of saving. All methods are called on the training thread."""

    def __init__(
        self,
        committer: Committer,
        *,
        interval_steps: int | None,
        interval_seconds: float | None = None,
        base: CheckpointRef | None,
        retry_seconds: float = RETRY_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        copy_bytes: CopyBytes = np.copyto,
    ) -> None:
        """Saves are due every `interval_steps` or `interval_seconds`, whichever comes first; None: not by that."""
        self._committer = committer
        self._interval_steps = interval_steps
        self._interval_seconds = interval_seconds
        self._monotonic = monotonic
        self._saved_at = monotonic()
        self._is_hurried = False
        self._log_lock = threading.Lock()
        self._newest: CheckpointRef | None = base
        self._copy_bytes = copy_bytes
        self._snapshots: Snapshotter | None = None
        self._thread = SaveThread(self._commit, release=self._release, retry_seconds=retry_seconds)
        self._thread.durable_step = base.step if base else None

    @property
    def durable_step(self) -> int | None:
        """The newest committed step of this run's line; None before the first."""
        return self._thread.durable_step

    @property
    def newest(self) -> CheckpointRef | None:
        """The newest committed checkpoint of this run's line."""
        return self._newest

    @property
    def alarm(self) -> str | None:
        """Why commits wait, for as long as they do."""
        return self._thread.alarm

    @property
    def save_seconds(self) -> float | None:
        """What the last save took from its snapshot to its commit; None before the first."""
        return self._thread.save_seconds

    @property
    def pending_step(self) -> int | None:
        """The newest step that is being saved or waits to be; None: nothing is."""
        return self._thread.pending_step

    def start(self) -> None:
        self._thread.start()

    def hurry(self, is_hurried: bool) -> float | None:
        """Save more often while the machine may go soon: the new interval in seconds, or None if nothing changes."""
        before, self._is_hurried = self._is_hurried, is_hurried
        return self._hurried_seconds() if is_hurried and not before else None

    def due(self, step: int) -> bool:
        """Is it time for a save? When a step is saved changes nothing about what it holds."""
        if self._interval_steps is not None and step % self._interval_steps == 0:
            return True
        seconds = self._hurried_seconds() if self._is_hurried else self._interval_seconds
        return seconds is not None and self._monotonic() - self._saved_at >= seconds

    def _hurried_seconds(self) -> float:
        # Four times what a save takes: hurrying must not turn into doing nothing but saving.
        return min(self._interval_seconds or math.inf, max(_HURRIED_SECONDS, 4 * (self.save_seconds or 0.0)))

    def check(self) -> None:
        """Raise Fenced, or whatever else ended the save thread."""
        self._thread.check()

    def save_in_background(self, state: Snapshotable, *, reason: str = "interval") -> None:
        """Begin a snapshot and return; it replaces one that still waits. Always of the same state.

        The state must not change before `wait_until_copied`.
        """
        self._submit(state, reason=reason, is_urgent=False)

    def wait_until_copied(self) -> None:
        """Called before every change of the state: returns at once unless a snapshot of it is still being copied."""
        if self._snapshots is not None:
            self._snapshots.wait_until_copied()

    def save_now(self, state: Snapshotable, *, reason: str, give_up: Callable[[], bool]) -> bool:
        """Commit the state as it is and wait for it; False if `give_up` said so first. Never skipped or replaced."""
        if self.durable_step != state.global_step:
            self._submit(state, reason=reason, is_urgent=True)
        return self._thread.wait_until_durable(state.global_step, give_up=give_up)

    def wait_for(self, step: int, *, give_up: Callable[[], bool]) -> bool:
        """Wait for a save that is under way already; False if `give_up` said so first."""
        return self._thread.wait_until_durable(step, give_up=give_up)

    def retire_with_next(self, numbers: set[int]) -> None:
        """Have the next commit retire these checkpoints too (rule 7: only checkpoint entries retire)."""
        self._committer.also_retire(numbers)

    def note_smaller_micro_batch(self, size: int, *, from_step: int, device_memory_bytes: int | None) -> None:
        """Have the commits from `from_step` on say that memory does not suffice for more samples at once."""
        self._committer.note_smaller_micro_batch(size, from_step=from_step, device_memory_bytes=device_memory_bytes)

    def write_stopped(self, *, reason: str, exit_code: int) -> bool:
        """Tell the next attempt that it need not wait; False if the storage did not take it. Raises Fenced.

        Without this entry nothing is lost but that waiting, so it must not turn the user's stop (76, restarted by
        nobody) into storage trouble (75, restarted).
        """
        try:
            with self._log_lock:
                self._committer.append(Stopped(reason=reason, exit_code=exit_code))
        except (StorageUnavailable, AccessDenied) as error:
            logger.warning("The next start has to wait for a sign of life: %s", error)
            return False
        return True

    def write_finished(self) -> Entry:
        """End the log: the newest checkpoint is the result. Raises Fenced, OutcomeUnknown."""
        assert self._newest is not None, "a run is finished only after its last step was committed"
        with self._log_lock:
            return self._committer.append(Finished(checkpoint=self._newest.number))

    def close(self, *, at_once: bool = False) -> None:
        """End the save thread; a save in flight gets a few seconds, or none, and is harmless if it needs more."""
        if self._snapshots is not None:
            self._snapshots.end()
        self._thread.close(timeout_seconds=0.0 if at_once else _CLOSE_SECONDS)

    def _submit(self, state: Snapshotable, *, reason: str, is_urgent: bool) -> None:
        self._saved_at = self._monotonic()
        if self._snapshots is None:
            self._snapshots = Snapshotter(state, copy_bytes=self._copy_bytes)
        # Before the copy, so that the newer one goes into the memory of the one that it replaces.
        self._thread.withdraw()
        self._thread.submit(Job(snapshot=self._snapshots.take(), reason=reason, is_urgent=is_urgent))

    def _release(self, snapshot: Snapshot) -> None:
        if self._snapshots is not None:
            self._snapshots.give_back(snapshot)

    def _commit(self, job: Job) -> None:
        with self._log_lock:
            self._committer.commit(job.snapshot.to_saved_state(), job.reason, committed=self._committed)

    def _committed(self, entry: Entry) -> None:
        if not isinstance(entry.body, Commit):
            raise StorageUnavailable(f"log entry {entry.number} holds no checkpoint")
        body = entry.body
        self._newest = CheckpointRef(
            number=entry.number, step=body.step, attempt=entry.attempt, folder=body.folder, files=body.files
        )
        # Who waits for this step needn't wait until what it retires is deleted, nor hear of trouble with that.
        self._thread.tell_durable(body.step)
