"""What lies in a home: dbr's own keys by kind, and what others put there. Deleting goes by this, never by a prefix."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from dreambooth_resume.data.cache import CACHE_PREFIX
from dreambooth_resume.data.class_images import MADE_LIST, NOTE_SUFFIX, noted_pictures
from dreambooth_resume.data.inputs import (
    CLASS_INPUTS_LIST,
    FETCHED_FOLDER,
    INPUTS_LIST,
    INPUTS_PREFIX,
    SEGMENT_LIST,
    VALIDATION_INPUTS_LIST,
    StoredInputs,
    read_list,
)
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.runs.home import (
    CARD_NAME,
    CHECKPOINT_FILES,
    RESULT_FILES,
    RUN,
    checkpoint_name,
    evaluation_parts,
    is_hint,
    is_job_file,
    is_package,
    is_sample,
    log_number,
)
from dreambooth_resume.runs.home import note_kind as kind_of_note
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.storage.base import Storage, StoredObject

KeyKind = Literal[
    "checkpoint",
    "result",
    "pictures",
    "cache",
    "samples",
    "evaluation",
    "status and curves",
    "package",
    "job file",
    "note",
    "log",
    "run",
]
"""In the order in which a run is deleted: what says what the run is goes last."""
DELETION_ORDER: tuple[KeyKind, ...] = (
    "checkpoint",
    "result",
    "pictures",
    "cache",
    "samples",
    "evaluation",
    "status and curves",
    "package",
    "job file",
    "log",
    "note",
    "run",
)

PICTURE_LISTS = (INPUTS_LIST, CLASS_INPUTS_LIST, VALIDATION_INPUTS_LIST, MADE_LIST)
_SEGMENT_LISTS = "inputs-"
_PICTURE = re.compile(rf"(?:{INPUTS_PREFIX}|{FETCHED_FOLDER}/)[0-9a-f]{{64}}")
_CACHED = re.compile(rf"{CACHE_PREFIX}[0-9a-f]{{64}}(?:\.safetensors|{re.escape(NOTE_SUFFIX)})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """A home's keys. `ours` are those that dbr writes, `foreign` all others."""

    ours: dict[KeyKind, tuple[StoredObject, ...]]
    foreign: tuple[StoredObject, ...]

    @property
    def files(self) -> int:
        return sum(len(found) for found in self.ours.values())

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for found in self.ours.values() for one in found)

    def in_order(self) -> list[StoredObject]:
        """Our keys as they are to be deleted: the log from its first entry on, and `run.json` last.

        Without its first entry a log is refused by everybody (78), so nobody trains half a run from the start again.
        """
        return [one for kind in DELETION_ORDER for one in self.ours[kind]]


def take_inventory(storage: Storage) -> Inventory:
    """Everything in the home, by one listing."""
    return sort_keys(storage.list())


def sort_keys(listed: Iterable[StoredObject]) -> Inventory:
    ours: dict[KeyKind, list[StoredObject]] = {kind: [] for kind in DELETION_ORDER}
    foreign: list[StoredObject] = []
    for found in listed:
        kind = kind_of(found.key)
        (foreign if kind is None else ours[kind]).append(found)
    return Inventory(ours={kind: tuple(found) for kind, found in ours.items()}, foreign=tuple(foreign))


def kind_of(key: str) -> KeyKind | None:
    """What dbr keeps under `key`; None if dbr writes no such key, whatever folder it lies in."""
    if key == RUN:
        return "run"
    if log_number(key) is not None:
        return "log"
    folder, _, name = key.partition("/")
    if checkpoint_name(folder) is not None and name in CHECKPOINT_FILES:
        return "checkpoint"
    if key in (*RESULT_FILES, CARD_NAME):
        return "result"
    if key in PICTURE_LISTS or SEGMENT_LIST.fullmatch(key) or _PICTURE.fullmatch(key):
        return "pictures"
    if _CACHED.fullmatch(key):
        return "cache"
    if is_sample(key):
        return "samples"
    if evaluation_parts(key) is not None:
        return "evaluation"
    if is_hint(key):
        return "status and curves"
    if is_package(key):
        return "package"
    if is_job_file(key):
        return "job file"
    return "note" if kind_of_note(key) is not None else None


def picture_names(storage: Storage) -> tuple[str, ...] | None:
    """The names of the pictures that the home has copies of; None where that isn't known."""
    stored = read_inputs(storage)
    return None if stored is None else tuple(picture.name for picture in stored.pictures)


def read_inputs(storage: Storage) -> StoredInputs | None:
    """The home's list of pictures, those of all segments among them; None if it has none, or one can't be read."""
    segments = [found.key for found in storage.list(_SEGMENT_LISTS) if SEGMENT_LIST.fullmatch(found.key)]
    try:
        lists = [read_list(storage, key) for key in (INPUTS_LIST, *segments)]
    except RefusedToGoOn:
        return None
    first = lists[0]
    if first is None:
        return None
    # Two data sets may share pictures.
    there = [one for one in lists if one is not None]
    named = {(picture.name, picture.digests): picture for one in there for picture in one.pictures}
    return first.model_copy(update={"pictures": tuple(named.values())})


def named_pictures(storage: Storage) -> frozenset[str] | None:
    """Digests of all pictures that the home's lists and notes name; None where it has no list to go by."""
    stored = read_inputs(storage)
    if stored is None:
        return None
    others = (read_list(storage, key) for key in (CLASS_INPUTS_LIST, VALIDATION_INPUTS_LIST))
    lists = [stored, *(one for one in others if one is not None)]
    named = {sha256 for one in lists for picture in one.pictures for sha256 in picture.digests}
    record = read_record(storage)
    if record is not None and record.pins.network_weights is not None:
        named.add(record.pins.network_weights)
    return frozenset(named | set(noted_pictures(storage)))


def total_bytes(found: Sequence[StoredObject]) -> int:
    return sum(one.size_bytes for one in found)
