"""The result: copies of what `finished` names, made after it, by the finisher or whoever starts next (rule 11)."""

from __future__ import annotations

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import CheckpointRef, StoredFile
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.base import Storage


def publish(storage: Storage, log: Log) -> CheckpointRef:
    """See to it that the finished run's result lies in its home; returns the checkpoint that it was copied from.

    Everybody who does this copies the same bytes, so any order and any number of copiers is right. Raises
    CheckpointDamaged if the result is missing and the checkpoint's own file is damaged.
    """
    assert log.finished is not None, "only a finished run has a result"
    ref = ref_of(log, log.finished.checkpoint)
    weights = ref.file_named(WEIGHTS_NAME)
    if not _is_there(storage, weights):
        from dreambooth_resume.checkpoint.reader import read_checked  # imports torch, which is seldom needed here

        storage.write(WEIGHTS_NAME, [read_checked(storage, weights)])
    return ref


def _is_there(storage: Storage, wanted: StoredFile) -> bool:
    try:
        stored = storage.digest(WEIGHTS_NAME)
    except KeyNotFound:
        return False
    return (stored.size_bytes, stored.sha256) == (wanted.size_bytes, wanted.sha256)
