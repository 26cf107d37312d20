"""The result: copies of what `finished` names, made after it, by the finisher or whoever starts next (rule 11)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import CheckpointRef, StoredFile
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.base import Storage

if TYPE_CHECKING:
    from dreambooth_resume.checkpoint.tensors import Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A file of the result that is made from the checkpoint's file `source`.

    `convert` is a pure function, so that every copier gets one file.
    """

    source: str
    convert: Callable[[bytes], Blob]


def publish(storage: Storage, log: Log, *, conversions: Mapping[str, Conversion] | None = None) -> CheckpointRef:
    """See to it that the finished run's result lies in its home; returns the checkpoint that it was copied from.

    `conversions` are further files of the result, by name. Everybody who does this copies the same bytes, so any order
    and any number of copiers is right. Raises CheckpointDamaged if the result is missing and the checkpoint's own file
    is damaged.
    """
    assert log.finished is not None, "only a finished run has a result"
    ref = ref_of(log, log.finished.checkpoint)
    weights = ref.file_named(WEIGHTS_NAME)
    if not _is_there(storage, WEIGHTS_NAME, size_bytes=weights.size_bytes, sha256=weights.sha256):
        storage.write(WEIGHTS_NAME, [_read(storage, weights)])
    for name, conversion in (conversions or {}).items():
        blob = conversion.convert(_read(storage, ref.file_named(conversion.source)))
        if not _is_there(storage, name, size_bytes=blob.size_bytes, sha256=blob.sha256):
            storage.write(name, blob.parts)
    return ref


def _read(storage: Storage, weights: StoredFile) -> bytes:
    from dreambooth_resume.checkpoint.reader import read_checked  # imports torch, which is seldom needed here

    return read_checked(storage, weights)


def _is_there(storage: Storage, name: str, *, size_bytes: int, sha256: str) -> bool:
    try:
        stored = storage.digest(name)
    except KeyNotFound:
        return False
    return (stored.size_bytes, stored.sha256) == (size_bytes, sha256)
