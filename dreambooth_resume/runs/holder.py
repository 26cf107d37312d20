"""Is the attempt that holds a run gone? (DESIGN: rule 4.) Decided without a lock, a lease or a wall clock."""

from __future__ import annotations

import os
import random
import shlex
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from dreambooth_resume.errors import HolderAlive, KeyNotFound
from dreambooth_resume.runs.entries import Adopt as AdoptBody
from dreambooth_resume.runs.entries import Commit, Entry, Process
from dreambooth_resume.runs.home import status_key
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.storage.base import Storage

SILENCE_SECONDS = 60.0
"""A holder whose heartbeat has not moved for so long, by the starter's own clock, is thought gone."""
_LOOK_SECONDS = 0.5


def this_process() -> Process:
    """Who we are, so that a later starter on this boot can see that we are no more."""
    return process_with(os.getpid())


def process_with(pid: int) -> Process:
    """The process that has this pid now. Raises psutil.NoSuchProcess if there is none."""
    return Process(
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        pid=pid,
        started=_started(psutil.Process(pid)),
    )


def is_known_gone(process: Process) -> bool:
    """True if `process` ran on this very boot, where its pid means something to us, and is no more."""
    if (process.boot_id, process.pid_namespace) != (_boot_id(), _pid_namespace()):
        return False
    try:
        found = psutil.Process(process.pid)
        return _started(found) != process.started or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How a starter waits for a holder: how long, and by which clock."""

    wait_seconds: float
    take_over: bool = False
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    should_stop: Callable[[], bool] = lambda: False
    tell: Callable[[str], None] = lambda _message: None


def wait_until_free(
    storage: Storage, *, mine: Process, patience: Patience, known: Log | None = None
) -> tuple[Log, str]:
    """Wait for the run's holder to go if need be; returns the log by which the run is free, and why it is.

    `known` is the log as it was read before, if it was: its entries are not read again.
    An adopt belongs at the number after that log, and nowhere else: behind any further entry stands somebody of whom
    nothing is known. Raises HolderAlive after `patience.wait_seconds`, or when asked to stop.
    """
    log = read_log(storage, known)
    adopt = log.adopt
    if adopt is None:
        return log, "nobody has trained this run yet"
    started = patience.monotonic()
    beat: bytes | None = None
    beat_seen = started
    told = False
    while True:
        if reason := _free_at_once(log, adopt, mine=mine, take_over=patience.take_over):
            return log, reason
        now = patience.monotonic()
        current = _heartbeat(storage, adopt.attempt)
        if current != beat:
            beat, beat_seen = current, now
        if now - beat_seen >= SILENCE_SECONDS:
            return log, f"attempt {adopt.attempt} has given no sign of life for {SILENCE_SECONDS:.0f} s"
        if patience.should_stop() or now - started >= patience.wait_seconds:
            raise HolderAlive(_still_held(storage, adopt, waited_seconds=now - started))
        if not told:
            patience.tell(_waiting(adopt, patience.wait_seconds))
            told = True
        patience.sleep(_LOOK_SECONDS * (1 + random.random()))  # jitter: many starters must not look in step
        log = read_log(storage, log)
        if (newest := log.adopt) is not None and newest.number != adopt.number:
            adopt, beat, beat_seen = newest, None, patience.monotonic()


def _free_at_once(log: Log, adopt: Entry, *, mine: Process, take_over: bool) -> str | None:
    assert isinstance(adopt.body, AdoptBody)
    process = adopt.body.process
    if log.last is not None and not isinstance(log.last.body, AdoptBody | Commit):
        return f"attempt {adopt.attempt} stopped"
    if process == mine:
        return "this process holds it already"
    if is_known_gone(process):
        return f"attempt {adopt.attempt}'s process is no more"
    if take_over:
        return f"--take-over was given (attempt {adopt.attempt} was not asked)"
    return None


def _heartbeat(storage: Storage, attempt: int) -> bytes | None:
    """The heartbeat as bytes: all that matters is whether it moves."""
    try:
        return storage.read(status_key(attempt))
    except KeyNotFound:
        return None


def _where(adopt: Entry) -> str:
    assert isinstance(adopt.body, AdoptBody)
    return f"attempt {adopt.attempt} (host {adopt.body.process.host}, pid {adopt.body.process.pid})"


def _waiting(adopt: Entry, wait_seconds: float) -> str:
    return (
        f"{_where(adopt)} trains this run. Waiting up to {wait_seconds:.0f} s for it to end, or "
        f"{SILENCE_SECONDS:.0f} s without a sign of life from it. Ctrl-C leaves it alone; --take-over takes the run "
        "from it."
    )


def _still_held(storage: Storage, adopt: Entry, *, waited_seconds: float) -> str:
    home = shlex.quote(storage.describe())
    return (
        f"{_where(adopt)} still trains the run in {storage.describe()} after {waited_seconds:.0f} s. Nothing was "
        f"changed. Watch it: dbr status {home}; end it: dbr stop {home}; or take the run "
        "from it: the same command with --take-over"
    )


def _started(process: psutil.Process) -> str:
    """When `process` began, in the kernel's ticks since boot where there are such.

    Not `create_time()`: it adds the wall clock's idea of the boot, which moves when the clock is set, and a holder that
    lives would seem to be another process of the same pid.
    """
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return str(process.create_time())
    return fields[19]  # proc(5): field 22, starttime, counted after the name, which may hold anything


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else f"{socket.gethostname()}-{psutil.boot_time():.0f}"


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return socket.gethostname()
