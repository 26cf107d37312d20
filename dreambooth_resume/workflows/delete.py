"""Deleting a whole run: first the log says so, then the files go, each by its exact key (DESIGN: rules 7, 8, 13).

Kill anywhere: the log retires every checkpoint before the first file goes, and `run.json` is the last to go. What is
left in between is refused by every start (78) and says what it is; the same command ends it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from dreambooth_resume.errors import HolderAlive, RefusedToGoOn, StoppedOnPurpose
from dreambooth_resume.runs.entries import EntryBody, RunState, Stopped
from dreambooth_resume.runs.home import LOG_PREFIX, STATUS_PREFIX, log_number
from dreambooth_resume.runs.liveness import watch_for_a_beat
from dreambooth_resume.runs.log import Log, LogWriter
from dreambooth_resume.runs.notes import post_note
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.base import Storage, StoredObject
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.holders import Waiting, refuse_if_held, take_run
from dreambooth_resume.workflows.inventory import Inventory, take_inventory
from dreambooth_resume.workflows.launched import live_jobs

DELETED_REASON = "dbr delete"
_ROUNDS_MAX = 3
_EVERY_ATTEMPT = 99_999_999

OnFile = Callable[[int, int], None]
"""Told how many files are gone, of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What went, and what stays because dbr did not write it."""

    files: int
    size_bytes: int
    foreign: tuple[StoredObject, ...]


def delete_run(storage: Storage, waiting: Waiting, *, on_file: OnFile = lambda _done, _total: None) -> Deleted:
    """Delete everything that dbr wrote into this home.

    Raises HolderAlive if somebody trains the run, or begins to while it is deleted; Fenced likewise.
    """
    writer = _take_if_possible(storage, waiting)
    if writer is not None:
        _retire_everything(writer)
    storage.claim(_EVERY_ATTEMPT)
    # For a log that can say no more, because it is finished or broken, and for the moment when it is half gone.
    post_note(storage, "deleting", f"{DELETED_REASON} has begun: type it again to end it")
    newest = writer.log.next_number - 1 if writer is not None else _newest_entry(storage)
    files = size_bytes = 0
    for _ in range(_ROUNDS_MAX):
        inventory = take_inventory(storage)
        if not inventory.files:
            break
        _delete_all(storage, inventory, newest, on_file)
        files, size_bytes = files + inventory.files, size_bytes + inventory.size_bytes
    if isinstance(storage, LocalStorage):
        storage.remove_if_empty()
    return Deleted(files=files, size_bytes=size_bytes, foreign=inventory.foreign)


def check_deletable(storage: Storage) -> None:
    """Raises HolderAlive if somebody trains the run, or evaluates it by a launch, as far as that can be seen.

    One whose log can't be read may be deleted like any other.
    """
    for one in live_jobs(storage, "eval"):
        if one.launch.job is not None and one.status.state in ("waiting", "running"):
            raise HolderAlive(
                f"An evaluation of {storage.describe()} goes on ({one.launch.job.name}), so nothing was deleted: its "
                f"scores would come back. End it first: dbr stop {shlex.quote(storage.describe())} --eval"
            )
    try:
        summary = summarise(storage)
    except RefusedToGoOn:
        attempts = [found.key for found in storage.list(STATUS_PREFIX)]
        newest = attempts[-1].removeprefix(STATUS_PREFIX).removesuffix(".json") if attempts else ""
        if newest.isdecimal() and watch_for_a_beat(storage, int(newest)):
            raise HolderAlive(
                f"Attempt {int(newest)} trains the run in {storage.describe()}, so nothing was deleted. To delete it, "
                f"stop that first: dbr stop {storage.describe()}, or end its process"
            ) from None
        return
    if summary is not None:
        refuse_if_held(storage, summary, to="delete it")


def _take_if_possible(storage: Storage, waiting: Waiting) -> LogWriter | None:
    """The run's pen, so that nobody else begins to train it; None where nobody can train it anyway."""
    try:
        taken = take_run(storage, waiting)
    except RefusedToGoOn:
        return None  # no checkpoint can be used, or the log is broken, or half deleted
    return None if isinstance(taken, Log) else taken


def _retire_everything(writer: LogWriter) -> None:
    def build(log: Log) -> tuple[EntryBody, RunState]:
        retire = tuple(sorted({*log.usable_line(), *log.off_line()}))
        body = Stopped(reason=DELETED_REASON, exit_code=StoppedOnPurpose.exit_code, retire=retire)
        return body, log.entries[-1].state.model_copy(update={"step": 0, "live": ()})

    writer.append(build)


def _delete_all(storage: Storage, inventory: Inventory, newest: int, on_file: OnFile) -> None:
    total, looked = inventory.files, False
    for done, found in enumerate(inventory.in_order(), start=1):
        if not looked and log_number(found.key) is not None:
            # The log is what keeps others out: not touched if somebody has come in after all.
            if _newest_entry(storage) > newest:
                raise HolderAlive(
                    f"Somebody has begun to train the run in {storage.describe()} while it was deleted. Its log was "
                    "left alone. End that, then type the same command again."
                )
            looked = True
        storage.delete(found.key)
        on_file(done, total)


def _newest_entry(storage: Storage) -> int:
    return max((log_number(found.key) or 0 for found in storage.list(LOG_PREFIX)), default=0)
