"""The commit log: reading it, and adding to it in a way that a second writer can't survive (DESIGN: rules 1 to 7)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from pydantic import ValidationError

from dreambooth_resume.errors import Fenced, KeyNotFound, OutcomeUnknown, RefusedToGoOn, StorageUnavailable
from dreambooth_resume.runs.entries import (
    Adopt,
    Commit,
    Entry,
    EntryBody,
    Finished,
    RunState,
    SetAside,
    Stopped,
    decode_entry,
    encode_entry,
)
from dreambooth_resume.runs.home import DELETING_PREFIX, LOG_PREFIX, log_key, log_number
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.reread import read_sound
from dreambooth_resume.storage.side_by_side import side_by_side

# An attempt meets its own late puts at most once each, so a longer walk means that something else is wrong.
_LATE_PUTS_MAX = 1000
# Most numbers that are asked for at a guess. One at first: who waits for a holder mostly hears that nothing is new.
_AHEAD_MAX = 32


@dataclass(frozen=True, slots=True)
class Log:
    """The entries 1, 2, 3, … as they were read, and what follows from them."""

    entries: tuple[Entry, ...] = ()
    retired: frozenset[int] = field(init=False)
    set_aside: Mapping[int, SetAside] = field(init=False)
    line: tuple[int, ...] = field(init=False)
    """Numbers of the checkpoints in the newest attempt's line, oldest first, retired ones included (rule 6)."""

    def __post_init__(self) -> None:
        retired: set[int] = set()
        aside: dict[int, SetAside] = {}
        tip: int | None = None
        before: dict[int, int | None] = {}
        for entry in self.entries:
            match entry.body:
                case Adopt():
                    tip = entry.body.base
                    if tip is not None and tip not in before:
                        # Taken for "no line", it would start the run again at step 0.
                        raise RefusedToGoOn(f"log entry {entry.number} goes on from {tip}, which is no checkpoint.")
                    aside.update({damaged.number: damaged for damaged in entry.body.set_aside})
                case Commit():
                    before[entry.number] = tip
                    tip = entry.number
                    retired.update(entry.body.retire)
                case Stopped():
                    retired.update(entry.body.retire)
                case Finished():
                    pass
        object.__setattr__(self, "retired", frozenset(retired))
        object.__setattr__(self, "set_aside", aside)
        newest_first: list[int] = []
        while tip is not None:
            newest_first.append(tip)
            tip = before[tip]
        object.__setattr__(self, "line", tuple(reversed(newest_first)))

    @property
    def last(self) -> Entry | None:
        return self.entries[-1] if self.entries else None

    @property
    def next_number(self) -> int:
        return len(self.entries) + 1

    @property
    def highest_attempt(self) -> int:
        return max((entry.attempt for entry in self.entries), default=0)

    @property
    def adopt(self) -> Entry | None:
        """The newest `adopt` entry: its attempt is the holder."""
        return next((entry for entry in reversed(self.entries) if isinstance(entry.body, Adopt)), None)

    @property
    def finished(self) -> Finished | None:
        return self.last.body if self.last and isinstance(self.last.body, Finished) else None

    def commit(self, number: int) -> Commit:
        """The checkpoint entry `number`. Raises RefusedToGoOn if the log holds no such checkpoint."""
        body = self.entries[number - 1].body if 1 <= number <= len(self.entries) else None
        if not isinstance(body, Commit):
            raise RefusedToGoOn(f"log entry {number} is not a checkpoint, though another entry says so.")
        return body

    def is_usable(self, number: int) -> bool:
        """Neither retired nor set aside."""
        return number not in self.retired and number not in self.set_aside

    def usable_line(self) -> tuple[int, ...]:
        """The line's checkpoints that may be loaded, oldest first."""
        return tuple(number for number in self.line if self.is_usable(number))

    def off_line(self) -> tuple[int, ...]:
        """Usable checkpoints that were gone back over, oldest first."""
        line = set(self.line)
        return tuple(
            entry.number
            for entry in self.entries
            if isinstance(entry.body, Commit) and entry.number not in line and self.is_usable(entry.number)
        )

    def has_request(self, request_id: str) -> bool:
        return any(isinstance(entry.body, Adopt) and entry.body.going_back == request_id for entry in self.entries)

    def with_entry(self, entry: Entry) -> Log:
        return Log((*self.entries, entry))


def read_log(storage: Storage, known: Log | None = None) -> Log:
    """The whole log. A listing may lag behind, so numbers after the listed ones are asked for too.

    Entries never change, so those of `known` are not read again, and only the next numbers are asked for.
    Raises RefusedToGoOn if an entry is missing or can't be read: what it said is unknown, so nothing can be decided.
    """
    listed = set() if known else _listed_numbers(storage)
    entries: list[Entry] = list(known.entries) if known else []
    ahead = 1
    while True:
        first = len(entries) + 1
        # At least one behind the last that is listed: if it isn't there, that is the end of the log.
        numbers = range(first, max(first + ahead, max(listed, default=0) + 2))
        ahead = min(2 * ahead, _AHEAD_MAX)
        for entry in side_by_side(storage, partial(_entry_if_there, storage), numbers):
            if entry is None:
                _refuse_a_gap(storage, len(entries) + 1, listed)
                return Log(tuple(entries))
            entries.append(entry)


def _listed_numbers(storage: Storage) -> set[int]:
    return {number for found in storage.list(LOG_PREFIX) if (number := log_number(found.key)) is not None}


def _refuse_a_gap(storage: Storage, missing: int, listed: set[int]) -> None:
    """Raises RefusedToGoOn if there are entries behind the one that isn't there."""
    later = min((number for number in listed if number >= missing), default=None)
    if later is None:
        return
    if storage.list(DELETING_PREFIX):
        raise RefusedToGoOn(
            f"{storage.describe()}: this run is being deleted. To end that: dbr delete {storage.describe()}"
        )
    raise RefusedToGoOn(
        f"{storage.describe()}: {log_key(missing)} is missing, but {log_key(later)} is there. Entries "
        "are never deleted by dbr: put it back from a copy, or begin a new run in another folder."
    )


def _entry_if_there(storage: Storage, number: int) -> Entry | None:
    try:
        return _read_entry(storage, number)
    except KeyNotFound:
        return None


def _read_entry(storage: Storage, number: int) -> Entry:
    return read_sound(storage, log_key(number), lambda body: _parse(storage, number, body), damaged=RefusedToGoOn)


def _parse(storage: Storage, number: int, body: bytes) -> Entry:
    try:
        entry = decode_entry(body)
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RefusedToGoOn(
            f"{storage.describe()}: {log_key(number)} can't be read ({reason}). Put it back from a "
            "copy, update dbr if a newer release wrote it, or begin a new run in another folder."
        ) from error
    if entry.number != number:
        raise RefusedToGoOn(
            f"{storage.describe()}: {log_key(number)} holds entry {entry.number}. Put it back from a copy."
        )
    return entry


def make_entry(*, number: int, attempt: int, body: EntryBody, state: RunState, nonce: str | None = None) -> Entry:
    """An entry of this moment, with a nonce by which its writer knows it again."""
    return Entry(
        number=number,
        attempt=attempt,
        nonce=nonce or uuid.uuid4().hex,
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        body=body,
        state=state,
    )


def put_entry(storage: Storage, entry: Entry) -> Entry:
    """Create `entry` under its number; returns what lies there: `entry` itself, or whoever was first (rule 2).

    The answer is compared by nonce, because a lost response looks like a refusal, and some stores let several writers
    believe that they won. Raises OutcomeUnknown if the entry may still land later.
    """
    key, body = log_key(entry.number), encode_entry(entry)
    trouble: StorageUnavailable | None = None
    try:
        storage.put_if_absent(key, body)
    except StorageUnavailable as error:
        trouble = error
    try:
        stored = _read_entry(storage, entry.number)
        if trouble is not None and stored.nonce == entry.nonce:
            # Seen is not yet durable: what the entry retires is deleted next, and a power cut must not bring it back.
            storage.put_if_absent(key, body)
    except (KeyNotFound, StorageUnavailable) as error:
        raise OutcomeUnknown(
            f"{storage.describe()}: it is not known whether {key} was written: {trouble or error!r}"
        ) from error
    return stored


Builder = Callable[[Log], tuple[EntryBody, RunState]]


class LogWriter:
    """The holder's pen. Writes only at the number after the last entry that this attempt has seen (rule 3)."""

    def __init__(self, storage: Storage, log: Log, *, attempt: int) -> None:
        self._storage = storage
        self.log = log
        self.attempt = attempt

    def append(self, build: Builder) -> Entry:
        """Put what `build` makes of the log as seen; it is asked again when an own earlier put landed late.

        Raises Fenced if anybody else took the number, OutcomeUnknown if the entry may land later: the caller keeps the
        data, and its next append tries the same number.
        """
        for _ in range(_LATE_PUTS_MAX):
            body, state = build(self.log)
            entry = make_entry(number=self.log.next_number, attempt=self.attempt, body=body, state=state)
            try:
                stored = put_entry(self._storage, entry)
            except RefusedToGoOn as error:
                # Somebody wrote it, perhaps a newer release, and it wasn't us.
                raise Fenced(f"{error} This attempt ({self.attempt}) stops and has overwritten nothing.") from error
            if stored.attempt != self.attempt:
                raise Fenced(
                    f"attempt {stored.attempt} has taken this run over ({log_key(stored.number)} in "
                    f"{self._storage.describe()}). This attempt ({self.attempt}) stops and has overwritten nothing."
                )
            self.log = self.log.with_entry(stored)
            if stored.nonce == entry.nonce or _says_the_same(stored.body, body):
                return stored
        raise RefusedToGoOn(f"{self._storage.describe()}: the log grew by {_LATE_PUTS_MAX} entries of this attempt.")


def _says_the_same(stored: EntryBody, wanted: EntryBody) -> bool:
    """An own late put has done the work: of the very same checkpoint, or of the same last words."""
    if isinstance(stored, Commit) and isinstance(wanted, Commit):
        return stored.folder == wanted.folder
    return stored == wanted
