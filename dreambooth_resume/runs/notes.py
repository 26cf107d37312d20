"""`notes/`: facts that others than the holder leave beside a run. Nothing is decided by them; people read them."""

from __future__ import annotations

import getpass
import os
import socket
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.entries import Record
from dreambooth_resume.runs.home import NOTES_PREFIX, note_key, note_kind
from dreambooth_resume.storage.base import Storage

NoteKind = Literal["exit", "damage", "score", "deleting", "pushed", "launch", "launched", "evaluation", "starts"]
"""`exit`: how a process ended, seen by what had started it. `launch`: what is about to be started, and where;
`evaluation`: the same of an evaluation, under a name of its own so that nobody who looks for the training finds it;
`launched`: how to find either (launch/record.py). `starts`: how many in a row got the run no further
(launch/starts.py). `damage`: a checkpoint isn't what was committed. `score`:
how good a checkpoint is, in `values`. `deleting`: `dbr delete` has begun, and is to be typed again if this is read. `pushed`: the result
was uploaded to the Hub; `values` say where to, and which."""


class Note(Record):
    """One fact. `kind` is any word when read, because a later release may know more of them."""

    kind: str
    nonce: str
    written_at: str
    """ISO 8601, UTC. For people."""
    written_by: str
    text: str
    attempt: int | None = None
    """The attempt that it is about."""
    checkpoint: int | None = None
    """The checkpoint entry that it is about."""
    values: dict[str, JsonValue] = Field(default_factory=dict)


def post_note(
    storage: Storage,
    kind: NoteKind,
    text: str,
    *,
    attempt: int | None = None,
    checkpoint: int | None = None,
    values: Mapping[str, JsonValue] | None = None,
    nonce: str | None = None,
) -> Note:
    """Leave a fact. Every note has a key of its own, so writers never meet; `nonce` is part of it (None: a new one)."""
    note = _note(kind, text, nonce=nonce or uuid.uuid4().hex, values=values)
    note = note.model_copy(update={"attempt": attempt, "checkpoint": checkpoint})
    storage.put_if_absent(note_key(kind, note.nonce), note.model_dump_json(indent=1).encode())
    return note


def rewrite_note(
    storage: Storage, kind: NoteKind, text: str, *, nonce: str, values: Mapping[str, JsonValue]
) -> None:
    """Write the one note of this kind and nonce, in place of what it said before: a count that one writer keeps."""
    note = _note(kind, text, nonce=nonce, values=values)
    storage.write(note_key(kind, nonce), [note.model_dump_json(indent=1).encode()])


def read_notes(storage: Storage, kind: NoteKind | None = None) -> tuple[Note, ...]:
    """The notes of one kind, or all of them, oldest first. Foreign and damaged files are passed over."""
    found: list[Note] = []
    for stored in storage.list(NOTES_PREFIX if kind is None else f"{NOTES_PREFIX}{kind}-"):
        if note_kind(stored.key) is None:
            continue
        try:
            found.append(Note.model_validate_json(storage.read(stored.key)))
        except (KeyNotFound, ValidationError):
            continue
    return tuple(sorted(found, key=lambda note: (note.written_at, note.nonce)))


def _note(kind: NoteKind, text: str, *, nonce: str, values: Mapping[str, JsonValue] | None) -> Note:
    return Note(
        kind=kind,
        nonce=nonce,
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        written_by=f"{_user()}@{socket.gethostname()}",
        text=text,
        values=dict(values or {}),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name (KeyError before Python 3.13)
        return f"uid {os.getuid()}"
