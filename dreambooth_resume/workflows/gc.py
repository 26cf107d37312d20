"""Clearing a home of what nothing names: by exact key, and only while nobody holds the run (DESIGN: rules 8 and 13).

Kill anywhere: nothing that goes is needed by anybody, so whatever is left is found again by the next call.
"""

from __future__ import annotations

import json
import struct
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from dreambooth_resume.checkpoint.deletion import left_over
from dreambooth_resume.data.inputs import INPUTS_LIST, SEGMENT_LIST, input_key
from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.entries import Commit
from dreambooth_resume.runs.home import CHECKPOINT_FILES, checkpoint_folder, checkpoint_name
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.base import Storage, StoredObject
from dreambooth_resume.storage.probe import PROBE_PREFIX
from dreambooth_resume.workflows.holders import Waiting, signs_of_life, take_run, write_command_entry
from dreambooth_resume.workflows.inventory import PICTURE_LISTS, Inventory, named_pictures, sort_keys

_PROBE_IS_LEFT_SECONDS = 24 * 3600.0
"""A start needs its probe for seconds, and gives up on a storage after ten minutes."""

OnFile = Callable[[int, int], None]
"""Told how many files are done, of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unnamed:
    """A key that nothing names, and why it is there."""

    key: str
    size_bytes: int
    why: str
    is_wanted: bool = False
    """Of a whole state that the next start would go on from, and not once `gc` has taken the run (rule 9)."""


def find_unnamed(
    storage: Storage,
    log: Log,
    *,
    among: Collection[str] | None = None,
    now_seconds: float | None = None,
    on_file: OnFile = lambda _done, _total: None,
) -> list[Unnamed]:
    """What may go, as far as `log` says; `among` these keys, if given.

    Reads each cache entry to see what it was made from. `now_seconds` is the time by the store's own clock, if known,
    else this machine's is taken for it.
    """
    inventory = sort_keys(found for found in storage.list() if among is None or found.key in among)
    named = named_pictures(storage)
    found = _checkpoint_files(log, inventory)
    found += _probes(inventory, now_seconds=time.time() if now_seconds is None else now_seconds)
    if named is not None:
        found += _pictures(named, inventory) + _cached(storage, named, inventory, on_file)
    return found


def collect_unnamed(
    storage: Storage, agreed: Sequence[Unnamed], waiting: Waiting, *, on_file: OnFile = lambda _done, _total: None
) -> list[Unnamed]:
    """Delete what of `agreed` is still unnamed once nobody else can hold the run; returns what went.

    Unfinished uploads of earlier attempts go too. Raises HolderAlive if somebody trains, Fenced if somebody begins to.
    """
    taken = take_run(storage, waiting)
    if isinstance(taken, Log):
        # Nobody commits behind `finished`, and whoever reopens the run writes under names of its own.
        return _delete(storage, taken, agreed, on_file)
    with signs_of_life(storage, taken):
        gone = _delete(storage, taken.log, agreed, on_file)
        write_command_entry(taken, f"dbr gc: {len(gone)} files that nothing named")
    return gone


def _delete(storage: Storage, log: Log, agreed: Sequence[Unnamed], on_file: OnFile) -> list[Unnamed]:
    storage.claim(log.highest_attempt + (1 if log.finished is not None else 0))
    agreed_keys = {one.key for one in agreed}
    # Only then is the store's clock asked: another machine's must not make a probe look old that a start uses now.
    has_probes = any(key.startswith(PROBE_PREFIX) for key in agreed_keys)
    now_seconds = _now_at(storage) if has_probes else None
    doomed = find_unnamed(storage, log, among=agreed_keys, now_seconds=now_seconds)
    for done, one in enumerate(doomed, start=1):
        storage.delete(one.key)
        on_file(done, len(doomed))
    return doomed


def _now_at(storage: Storage) -> float:
    """The time by the store's own clock; the beginning of time where it doesn't tell, so that nothing is old."""
    key = f"{PROBE_PREFIX}{uuid.uuid4().hex}.json"
    try:
        storage.write(key, [b"{}"])
        times = [one.modified_at for one in storage.list(key) if one.key == key]
    finally:
        storage.delete(key)
    return next((one for one in times if one is not None), 0.0)


def _probes(inventory: Inventory, *, now_seconds: float) -> list[Unnamed]:
    """What starts have left that were killed while they looked at the storage. A start that lives needs its own."""
    return [
        Unnamed(key=one.key, size_bytes=one.size_bytes, why="of a start that was killed while it tried the storage")
        for one in inventory.ours["status and curves"]
        if one.key.startswith(PROBE_PREFIX)
        and one.modified_at is not None
        and now_seconds - one.modified_at > _PROBE_IS_LEFT_SECONDS
    ]


def _checkpoint_files(log: Log, inventory: Inventory) -> list[Unnamed]:
    retired = {log.commit(number).folder for number in log.retired}
    found = left_over(log, inventory.ours["checkpoint"], below_attempt=log.highest_attempt + 1)
    staged = _staged_folder(log, found)
    reasons = {
        folder: "retired in the log" if folder in retired else "never committed"
        for folder in {one.key.partition("/")[0] for one in found}
    }
    if staged is not None:
        reasons[staged] = "complete, but not committed: starting the run again would go on from it"
    folders = [one.key.partition("/")[0] for one in found]
    return [
        Unnamed(key=one.key, size_bytes=one.size_bytes, why=reasons[folder], is_wanted=folder == staged)
        for one, folder in zip(found, folders, strict=True)
    ]


def _staged_folder(log: Log, found: Sequence[StoredObject]) -> str | None:
    """What the newest attempt wrote in full and could not commit: the next start takes it in place of training."""
    keys = {one.key for one in found}
    folders = {key.partition("/")[0] for key in keys}
    whole = [folder for folder in folders if all(f"{folder}/{name}" in keys for name in CHECKPOINT_FILES)]
    names = [name for folder in whole if (name := checkpoint_name(folder)) is not None]
    steps = [step for step, attempt in names if attempt == log.highest_attempt]
    durable = log.commit(log.line[-1]).step if log.line else 0
    committed = {entry.body.folder for entry in log.entries if isinstance(entry.body, Commit)}
    above = [step for step in steps if step > durable]
    folder = checkpoint_folder(max(above), log.highest_attempt) if above else None
    return None if log.finished is not None or folder in committed else folder


def _pictures(named: Collection[str], inventory: Inventory) -> list[Unnamed]:
    kept = {*PICTURE_LISTS, *(input_key(digest) for digest in named)}
    return [
        Unnamed(key=one.key, size_bytes=one.size_bytes, why=f"a picture that {INPUTS_LIST} does not name")
        for one in inventory.ours["pictures"]
        if one.key not in kept and not SEGMENT_LIST.fullmatch(one.key)
    ]


def _cached(storage: Storage, named: Collection[str], inventory: Inventory, on_file: OnFile) -> list[Unnamed]:
    found: list[Unnamed] = []
    entries = inventory.ours["cache"]
    for done, one in enumerate(entries, start=1):
        picture = _picture_of(storage, one.key)
        if picture is not None and picture not in named:
            why = f"computed from a picture that {INPUTS_LIST} does not name"
            found.append(Unnamed(key=one.key, size_bytes=one.size_bytes, why=why))
        on_file(done, len(entries))
    return found


class _Head:
    """The first bytes of a body; the rest is passed over."""

    def __init__(self) -> None:
        self.body = b""

    def update(self, piece: bytes, /) -> None:
        if len(self.body) < _HEAD_BYTES:
            self.body += piece


_HEAD_BYTES = 2**16


def _picture_of(storage: Storage, key: str) -> str | None:
    """The digest of the picture that a cache entry was computed from; None for prompts, and where it can't be told."""
    try:
        head = storage.download(key, _Head).body
        size = struct.unpack_from("<Q", head)[0]
        recipe = json.loads(json.loads(head[8 : 8 + size])["__metadata__"]["dbr"])["recipe"]
        return str(recipe["picture"]) if recipe.get("kind") == "latents" else None
    except (KeyNotFound, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None  # a damaged entry is found and made again by the start that needs it
