"""What a launch leaves in the home, as notes: what was to run and where, and then the launcher's handle of it.

Kill between the two: the job may run, and its machine knows the launch by its number, as `dbr stop` does; for a while a
second launch of the same home is refused. Nothing about the run itself is decided by these notes. Evaluations have
notes of another kind: whoever looks for the training's launches, be it an earlier release, never finds one of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue, ValidationError

from dreambooth_resume.errors import BadInput, KeyNotFound
from dreambooth_resume.launch.base import Job, Purpose
from dreambooth_resume.runs.entries import Record
from dreambooth_resume.runs.home import note_key
from dreambooth_resume.runs.notes import Note, NoteKind, post_note, read_notes
from dreambooth_resume.storage.base import Storage

_KINDS: Mapping[Purpose, NoteKind] = {"train": "launch", "eval": "evaluation"}


class Planned(Record):
    """The values of such a note. `words` are those of `dbr train`, or `dbr eval`, without anything secret."""

    launcher: str
    settings: dict[str, JsonValue]
    words: tuple[str, ...]
    version: str


class Started(Record):
    """The values of a `launched` note."""

    launch: str
    job: str
    job_values: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launch of a run, or of an evaluation of it, as its home tells of it."""

    id: str
    purpose: Purpose
    launcher: str
    settings: Mapping[str, JsonValue]
    words: tuple[str, ...]
    version: str
    job: Job | None
    """None: it was not started, or who started it died before it could say so."""
    written_at: str
    """ISO 8601, UTC. For people."""
    written_by: str


def write_launch(
    storage: Storage, launch_id: str, *, launcher: str, settings: Mapping[str, JsonValue], words: tuple[str, ...],
    version: str, purpose: Purpose = "train",
) -> None:  # fmt: skip
    """What is about to be started; the launched machine reads from it what to do."""
    planned = Planned(launcher=launcher, settings=dict(settings), words=words, version=version)
    values = planned.model_dump(mode="json")
    post_note(storage, _KINDS[purpose], f"{launcher}, by dbr {version}", values=values, nonce=launch_id)


def write_started(storage: Storage, launch_id: str, *, launcher: str, job: Job) -> None:
    """How to find what was started."""
    started = Started(launch=launch_id, job=job.name, job_values=dict(job.values))
    post_note(storage, "launched", f"{launcher}: {job.name}", values=started.model_dump(mode="json"))


def forget_launch(storage: Storage, launch_id: str, *, purpose: Purpose = "train") -> None:
    """Take back what `write_launch` wrote: nothing was started."""
    storage.delete(note_key(_KINDS[purpose], launch_id))


def is_remembered(storage: Storage, launch_id: str, *, purpose: Purpose = "train") -> bool:
    """Is what `write_launch` wrote still there? Nobody forgets a launch but `dbr stop`, and who failed to start it."""
    try:
        storage.read(note_key(_KINDS[purpose], launch_id))
    except KeyNotFound:
        return False
    return True


def read_launch(storage: Storage, launch_id: str) -> Launch:
    """The launch of that number, whatever it is for. Raises BadInput if the home has none."""
    for purpose, kind in _KINDS.items():
        with contextlib.suppress(KeyNotFound, ValidationError):
            return _launch(Note.model_validate_json(storage.read(note_key(kind, launch_id))), None, purpose)
    raise BadInput("the home has no such launch", where=f"--launch {launch_id[:40]}", fix="dbr launch WHERE makes one")


def read_launches(storage: Storage, purpose: Purpose = "train") -> tuple[Launch, ...]:
    """All launches for that purpose, oldest first."""
    jobs: dict[str, Job] = {}
    for note in read_notes(storage, "launched"):
        try:
            started = Started.model_validate(note.values)
        except ValidationError:
            continue
        jobs[started.launch] = Job(name=started.job, values=started.job_values)
    found: list[Launch] = []
    for note in read_notes(storage, _KINDS[purpose]):
        try:
            found.append(_launch(note, jobs.get(note.nonce), purpose))
        except ValidationError:
            continue
    return tuple(found)


def _launch(note: Note, job: Job | None, purpose: Purpose) -> Launch:
    planned = Planned.model_validate(note.values)
    return Launch(
        id=note.nonce,
        purpose=purpose,
        launcher=planned.launcher,
        settings=planned.settings,
        words=planned.words,
        version=planned.version,
        job=job,
        written_at=note.written_at,
        written_by=note.written_by,
    )
