"""One save from snapshot to commit, in the order that makes a kill at any moment harmless (DESIGN: Save)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from dreambooth_resume.checkpoint.deletion import delete_checkpoints
from dreambooth_resume.checkpoint.format import ExportWeights, SavedState, closing_blob, tensor_blobs
from dreambooth_resume.checkpoint.retention import to_retire
from dreambooth_resume.checkpoint.stage import Stage
from dreambooth_resume.checkpoint.tensors import Blob
from dreambooth_resume.errors import AccessDenied, KeyNotFound, StorageUnavailable
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import (
    Commit,
    Entry,
    EntryBody,
    LiveCheckpoint,
    RunState,
    SmallerMicroBatch,
    StoredFile,
)
from dreambooth_resume.runs.home import STATE_NAME, checkpoint_folder
from dreambooth_resume.runs.log import Log, LogWriter
from dreambooth_resume.runs.meter import Meter
from dreambooth_resume.storage.base import Storage

# The files of a state that is at least so large are written side by side: while a store puts the parts of one together,
# or answers from far away, the other is sent. Of smaller ones the threads would cost training more than is gained.
SIDE_BY_SIDE_BYTES = 32 * 2**20


class Committer:
    """Turns saved states into committed checkpoints of one attempt. Used by one thread at a time."""

    def __init__(
        self,
        storage: Storage,
        writer: LogWriter,
        *,
        export_weights: ExportWeights,
        flush_metrics: Callable[[int], None],
        total_limit: int | None,
        keep_every: int | None = None,
        keep: Callable[[Log, int], frozenset[int]] = lambda _log, _step: frozenset(),
        max_train_steps: int,
        begins_at: int | None = None,
        stage: Stage | None = None,
        refuse: Callable[[SavedState], None] = lambda _state: None,
        side_by_side_bytes: int = SIDE_BY_SIDE_BYTES,
        meter: Meter | None = None,
    ) -> None:
        """`begins_at` is the step that training begins at, if that isn't the adopted one but one that was staged.

        `refuse` raises for a state that must not be saved: asked here, on the thread that saves, because looking at
        every number of it takes as long as copying it. `keep` names checkpoints that the commit of a step may not
        retire. `meter` runs since the attempt began; None: from now on.
        """
        self._refuse = refuse
        self._meter = meter or Meter()
        self._side_by_side_bytes = side_by_side_bytes
        self._storage = storage
        self._writer = writer
        self._export_weights = export_weights
        self._flush_metrics = flush_metrics
        self._total_limit = total_limit
        self._keep_every = keep_every
        self._keep = keep
        self._stage = stage
        self._max_train_steps = max_train_steps
        adopted = writer.log.entries[-1].state
        self._begins_at = adopted.step if begins_at is None else begins_at
        staged_steps = self._begins_at - adopted.step
        # The adopt counted them as lost: it is written before anybody looks at the stage.
        redone_steps = max(0, adopted.totals.redone_steps - staged_steps)
        self._base_totals = adopted.totals.model_copy(update={"redone_steps": redone_steps})
        self._started = time.monotonic()
        self._asked_to_retire: set[int] = set()
        self._smaller_micro_batches: tuple[SmallerMicroBatch, ...] = ()

    def commit(
        self, state: SavedState, reason: str, *, committed: Callable[[Entry], None] = lambda _entry: None
    ) -> Entry:
        """Make `state` a checkpoint. Raises Fenced, and StorageUnavailable (nothing is lost: call again).

        `committed` is told the entry as soon as it is durable, before what it retires is deleted.
        """
        self._refuse(state)
        try:
            entry = self._commit(state, reason, committed)
        except (StorageUnavailable, AccessDenied):
            if self._stage is not None:
                self._stage.keep(state, self._export_weights, attempt=self._writer.attempt)
            raise
        if self._stage is not None:
            self._stage.clear()
        return entry

    def _commit(self, state: SavedState, reason: str, committed: Callable[[Entry], None]) -> Entry:
        folder = checkpoint_folder(state.step, self._writer.attempt)
        if (done := self._committed(folder)) is not None:
            committed(done)
            return done
        blobs = tensor_blobs(state, self._export_weights)
        parts = {f"{folder}/{name}": blob for name, blob in blobs.items()}

        def close() -> StoredFile:
            # The file that makes the folder whole: once it is there the next attempt may take this state up, entry or
            # not, so what its steps measured has to be there before.
            self._flush_metrics(state.step)
            return self._write(f"{folder}/{STATE_NAME}", closing_blob(state, blobs))

        if sum(blob.size_bytes for blob in blobs.values()) < self._side_by_side_bytes:
            files = (*(self._write(key, blob) for key, blob in parts.items()), close())
        else:
            files = self._write_side_by_side(parts, close)
        # The log entry goes last: until it exists no reader sees this checkpoint, so a kill before this line loses
        # nothing, and nothing that the entry retires is deleted before it is durable.
        entry = self._writer.append(lambda log: self._entry(log, state.step, folder, files, reason))
        assert isinstance(entry.body, Commit)
        committed(entry)
        delete_checkpoints(self._storage, [ref_of(self._writer.log, number) for number in entry.body.retire])
        return entry

    def also_retire(self, numbers: set[int]) -> None:
        """Have the next commit retire these checkpoints as well, because somebody asked for it. From any thread."""
        self._asked_to_retire = self._asked_to_retire | numbers

    def note_smaller_micro_batch(self, size: int, *, from_step: int, device_memory_bytes: int | None) -> None:
        """Have the commits from `from_step` on say that memory does not suffice for more at once. From any thread."""
        smaller = SmallerMicroBatch(
            size=size, from_step=from_step, attempt=self._writer.attempt, device_memory_bytes=device_memory_bytes
        )
        self._smaller_micro_batches = (*self._smaller_micro_batches, smaller)

    def append(self, body: EntryBody) -> Entry:
        """Add an entry that changes nothing about the checkpoints."""
        return self._writer.append(lambda log: (body, log.entries[-1].state))

    def _committed(self, folder: str) -> Entry | None:
        """This attempt's entry for `folder`. A second one of the same files could retire the first, files and all."""
        own = (entry for entry in reversed(self._writer.log.entries) if entry.attempt == self._writer.attempt)
        return next((entry for entry in own if isinstance(entry.body, Commit) and entry.body.folder == folder), None)

    def _write_side_by_side(self, parts: Mapping[str, Blob], close: Callable[[], StoredFile]) -> tuple[StoredFile, ...]:
        """Write each of `parts` on a thread of its own, and `close` meanwhile: it waits for their digests alone.

        Raises what one of them ran into, once all have ended.
        """
        written: dict[str, StoredFile] = {}
        failed: dict[str, BaseException] = {}

        def write(key: str) -> None:
            try:
                written[key] = self._write(key, parts[key])
            except BaseException as error:  # noqa: BLE001
                # A thread's root: raised below.
                failed[key] = error

        # Not a pool: its threads would be waited for at the end of the process, which has a deadline of its own.
        threads = [threading.Thread(target=write, args=(key,), name="dbr-save-file", daemon=True) for key in parts]
        for thread in threads:
            thread.start()
        try:
            closing = close()
        finally:
            # Also after trouble: the snapshot's memory is used again once this returns.
            for thread in threads:
                thread.join()
        for key in parts:
            if key in failed:
                raise failed[key]
        return (*(written[key] for key in parts), closing)

    def _write(self, key: str, blob: Blob) -> StoredFile:
        self._storage.write(key, blob.parts)
        try:
            holds = self._storage.holds(key, blob.parts, sha256=blob.sha256)
        except KeyNotFound as error:
            # A newer attempt clears away what lower ones left; the log entry will tell.
            raise StorageUnavailable(f"{self._storage.describe()}: {key} was written and is not there.") from error
        if not holds:
            raise StorageUnavailable(
                f"{self._storage.describe()}: what is stored as {key} differs from the {blob.size_bytes} bytes that "
                "were written. The disk or the network damages data."
            )
        return StoredFile(key=key, size_bytes=blob.size_bytes, sha256=blob.sha256)

    def _entry(
        self, log: Log, step: int, folder: str, files: tuple[StoredFile, ...], reason: str
    ) -> tuple[EntryBody, RunState]:
        committed = {entry.number for entry in log.entries if isinstance(entry.body, Commit)} - log.retired
        asked = self._asked_to_retire & committed
        gone = to_retire(log, total_limit=self._total_limit, keep_every=self._keep_every, keep=self._keep(log, step))
        retire = tuple(sorted({*gone, *asked}))
        body = Commit(step=step, folder=folder, files=files, reason=reason, retire=retire)
        kept = sorted({*log.usable_line(), *log.off_line()} - set(retire))
        itself = LiveCheckpoint(number=log.next_number, step=step, attempt=self._writer.attempt, folder=folder)
        before = log.entries[-1].state
        # A save that was under way when memory ran out is of an earlier step, to be gone on from as it was computed.
        smaller = [one for one in self._smaller_micro_batches if one.from_step <= step]
        made = step - self._begins_at
        totals = self._meter.on_top_of(self._base_totals).model_copy(
            update={
                "steps": self._base_totals.steps + made,
                "training_seconds": round(self._base_totals.training_seconds + time.monotonic() - self._started, 3),
            }
        )
        state = RunState(
            step=step,
            max_train_steps=self._max_train_steps,
            live=(*(ref_of(log, number).without_files() for number in kept), itself),
            lineage=before.lineage,
            totals=totals,
            changed_options=before.changed_options,
            segments=before.segments,
            skipped=before.skipped,
            smaller_micro_batch=smaller[-1] if smaller else before.smaller_micro_batch,
        )
        return body, state
