"""Logs made by hand: a list of what each entry says."""

from __future__ import annotations

from dreambooth_resume.runs.entries import (
    Adopt,
    Commit,
    EntryBody,
    Finished,
    Process,
    RunState,
    SetAside,
    Stopped,
    StoredFile,
    Totals,
)
from dreambooth_resume.runs.home import checkpoint_folder
from dreambooth_resume.runs.log import Log, make_entry, put_entry
from dreambooth_resume.storage.base import Storage

NOTHING_YET = RunState(step=0, max_train_steps=0, live=(), lineage=(), totals=Totals())
ELSEWHERE = Process(host="gpu-7", boot_id="another boot", pid_namespace="pid:[1]", pid=7, started="1")


def adopt(
    base: int | None = None,
    *,
    process: Process = ELSEWHERE,
    set_aside: tuple[int, ...] = (),
    going_back: str | None = None,
) -> Adopt:
    damaged = tuple(SetAside(number=number, folder=f"entry {number}", reason="damaged") for number in set_aside)
    return Adopt(base=base, process=process, set_aside=damaged, going_back=going_back)


def commit(step: int, *, attempt: int = 1, retire: tuple[int, ...] = ()) -> Commit:
    folder = checkpoint_folder(step, attempt)
    file = StoredFile(key=f"{folder}/trainer_state.json", size_bytes=1, sha256="0" * 64)
    return Commit(step=step, folder=folder, files=(file,), reason="interval", retire=retire)


def stopped(*, retire: tuple[int, ...] = ()) -> Stopped:
    return Stopped(reason="SIGTERM", exit_code=75, retire=retire)


def finished(checkpoint: int) -> Finished:
    return Finished(checkpoint=checkpoint)


def log_of(*bodies: EntryBody) -> Log:
    """A log whose attempts are counted by their `adopt` entries."""
    log = Log()
    for body in bodies:
        attempt = log.highest_attempt + isinstance(body, Adopt)
        log = log.with_entry(make_entry(number=log.next_number, attempt=attempt, body=body, state=NOTHING_YET))
    return log


def put_log(storage: Storage, *bodies: EntryBody) -> Log:
    """The same, written."""
    log = log_of(*bodies)
    for entry in log.entries:
        put_entry(storage, entry)
    return log
