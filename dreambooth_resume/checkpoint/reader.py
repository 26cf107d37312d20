"""Reading checkpoints back: every byte is compared with what its log entry, or its own state file, says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial

from dreambooth_resume.checkpoint.format import SavedState, from_bodies
from dreambooth_resume.errors import CheckpointDamaged, KeyNotFound
from dreambooth_resume.runs.entries import CheckpointRef, StoredFile
from dreambooth_resume.runs.home import CHECKPOINT_FILES, CHECKPOINT_PREFIX, checkpoint_folder, checkpoint_name
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.reread import read_sound
from dreambooth_resume.storage.side_by_side import side_by_side


def load_checkpoint(storage: Storage, ref: CheckpointRef) -> SavedState:
    """The state of a committed checkpoint. Raises CheckpointDamaged with the reason; 403 and 5xx stay what they are."""
    bodies = side_by_side(storage, partial(read_checked, storage), ref.files)
    state = from_bodies({file.key.rpartition("/")[2]: body for file, body in zip(ref.files, bodies, strict=True)})
    if state.step != ref.step:
        raise CheckpointDamaged(f"the files are those of step {state.step}, the log entry says {ref.step}")
    return state


def read_checked(storage: Storage, file: StoredFile) -> bytes:
    """The body of one file of a committed checkpoint, equal to what its entry says. Raises CheckpointDamaged."""
    try:
        return read_sound(storage, file.key, lambda body: _checked(file, body), damaged=CheckpointDamaged)
    except KeyNotFound:
        raise CheckpointDamaged(f"{file.key.rpartition('/')[2]} is missing") from None


def _checked(file: StoredFile, body: bytes) -> bytes:
    name = file.key.rpartition("/")[2]
    if len(body) != file.size_bytes:
        raise CheckpointDamaged(f"{name} has {len(body)} of {file.size_bytes} bytes")
    if hashlib.sha256(body).hexdigest() != file.sha256:
        raise CheckpointDamaged(f"{name} is not what was written (SHA-256 differs)")
    return body


def load_staged(storage: Storage, *, attempt: int, above_step: int) -> SavedState | None:
    """The newest complete checkpoint that `attempt` wrote above `above_step` and never committed, or None (rule 9)."""
    for step in sorted(_staged_steps(storage, attempt), reverse=True):
        if step <= above_step:
            return None
        folder = checkpoint_folder(step, attempt)
        try:
            bodies = side_by_side(storage, storage.read, [f"{folder}/{name}" for name in CHECKPOINT_FILES])
            return from_bodies(dict(zip(CHECKPOINT_FILES, bodies, strict=True)))
        except (KeyNotFound, CheckpointDamaged):
            continue  # written in part: those steps are trained again
    return None


def _staged_steps(storage: Storage, attempt: int) -> Iterable[int]:
    names = {checkpoint_name(found.key.partition("/")[0]) for found in storage.list(CHECKPOINT_PREFIX)}
    return {name[0] for name in names if name is not None and name[1] == attempt}
