"""What of checkpoints may be deleted, and deleting it. Needs no torch: commands delete as well as trainings."""

from __future__ import annotations

from collections.abc import Sequence

from dreambooth_resume.runs.entries import CheckpointRef, Commit
from dreambooth_resume.runs.home import CHECKPOINT_FILES, CHECKPOINT_PREFIX, checkpoint_name
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.base import Storage, StoredObject
from dreambooth_resume.storage.side_by_side import side_by_side


def delete_checkpoints(storage: Storage, refs: list[CheckpointRef]) -> None:
    """Remove the files of retired checkpoints, each by its exact key. What a kill leaves, `collect` removes later."""
    for ref in refs:
        for file in reversed(ref.files):
            storage.delete(file.key)


def collect(storage: Storage, log: Log, *, attempt: int) -> int:
    """Delete what no entry names and what retire lists left undone, of attempts below `attempt` alone (rule 8).

    Only after the adopt of `attempt` is durable: from then on no lower attempt can commit. Returns how many files went.
    """
    left = left_over(log, storage.list(CHECKPOINT_PREFIX), below_attempt=attempt)
    return sum(1 for _ in side_by_side(storage, storage.delete, [found.key for found in left]))


def left_over(log: Log, listed: Sequence[StoredObject], *, below_attempt: int) -> list[StoredObject]:
    """Of `listed`, the checkpoint files that attempts below this one wrote and that `log` does not keep."""
    committed = {file.key for entry in log.entries if isinstance(entry.body, Commit) for file in entry.body.files}
    retired = {file.key for number in log.retired for file in log.commit(number).files}
    kept = committed - retired
    left = []
    for found in listed:
        folder, _, name = found.key.partition("/")
        parsed = checkpoint_name(folder)
        is_ours = parsed is not None and parsed[1] < below_attempt and name in CHECKPOINT_FILES
        if is_ours and found.key not in kept:
            left.append(found)
    return left
