"""How many starts in a row got a run no further, over all supervisors of one launch: a platform may make one a start.

One note a launch, written anew after each such start and gone with the last: a hint, like all notes. Killed before it
is written, one start is not counted.
"""

from __future__ import annotations

import hashlib
from typing import Final

from pydantic import ValidationError

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.entries import Record
from dreambooth_resume.runs.home import note_key
from dreambooth_resume.runs.notes import Note, rewrite_note
from dreambooth_resume.storage.base import Storage

_KIND: Final = "starts"


class Starts(Record):
    """The values of a `starts` note."""

    durable_step: int
    in_a_row: int


def count_start(storage: Storage, launch_id: str, *, durable_step: int) -> int:
    """One more start of this launch left the run at `durable_step`; how many in a row did, with this one.

    Raises what the storage raises; then it is not counted.
    """
    try:
        note = Note.model_validate_json(storage.read(note_key(_KIND, _nonce(launch_id))))
        before = Starts.model_validate(note.values)
    except (KeyNotFound, ValidationError):
        before = Starts(durable_step=durable_step, in_a_row=0)
    in_a_row = before.in_a_row + 1 if before.durable_step == durable_step else 1
    starts = Starts(durable_step=durable_step, in_a_row=in_a_row)
    told = f"{in_a_row} starts in a row left the run at step {durable_step}"
    rewrite_note(storage, _KIND, told, nonce=_nonce(launch_id), values=starts.model_dump(mode="json"))
    return in_a_row


def forget_starts(storage: Storage, launch_id: str) -> None:
    """Whoever starts this launch again does so on purpose: it is counted anew."""
    storage.delete(note_key(_KIND, _nonce(launch_id)))


def _nonce(launch_id: str) -> str:
    """Also of what was launched by hand, which has no number."""
    return hashlib.sha256(launch_id.encode()).hexdigest()[:32]
