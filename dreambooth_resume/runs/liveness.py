"""Does the newest attempt still live? For people who look: an answer at once, and so only a hint.

A starter decides by `holder.wait_until_free`, which waits and trusts no clock but its own. Here nobody may wait, so on
another machine's word the wall clocks of two machines are compared; nothing is ever written because of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from dreambooth_resume.runs.entries import Process
from dreambooth_resume.runs.holder import SILENCE_SECONDS, is_known_gone, this_process
from dreambooth_resume.runs.status import HEARTBEAT_SECONDS, read_status
from dreambooth_resume.storage.base import Storage

_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """What can be said about an attempt that never said goodbye."""

    is_live: bool
    is_certain: bool
    """Seen in this boot's process table, and not judged by the age of a heartbeat."""
    because: str
    beat_age_seconds: float | None
    """Since its last sign of life, by the clock of who looks; None if it never gave one that can be read."""


def look_for_life(process: Process | None, *, last_sign: str | None, now: datetime) -> Liveness:
    """Judge an attempt by its process, where that means something here, else by `last_sign` (ISO 8601)."""
    age = age_seconds(last_sign, now=now)
    if process is not None and is_known_gone(process):
        because = f"its process {process.pid} is no more, and it said no goodbye"
        return Liveness(is_live=False, is_certain=True, because=because, beat_age_seconds=age)
    if process is not None and _is_ours_to_see(process):
        silent = age is not None and age >= SILENCE_SECONDS
        because = "its process lives" + (f", but gave no sign for {age:.0f} s" if silent else "")
        return Liveness(is_live=True, is_certain=True, because=because, beat_age_seconds=age)
    host = process.host if process else "an unknown machine"
    if age is None:
        because = f"no sign of life from {host}"
        return Liveness(is_live=False, is_certain=False, because=because, beat_age_seconds=None)
    because = f"last sign of life from {host} {age:.0f} s ago"
    return Liveness(is_live=age < SILENCE_SECONDS, is_certain=False, because=because, beat_age_seconds=age)


def watch_for_a_beat(
    storage: Storage,
    attempt: int,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Does the heartbeat of `attempt` move? Waits for two beats at most, and compares no clocks."""
    first = read_status(storage, attempt)
    deadline = monotonic() + 2 * HEARTBEAT_SECONDS
    while monotonic() < deadline:
        sleep(_LOOK_SECONDS)
        if read_status(storage, attempt) != first:
            return True
    return False


def age_seconds(moment: str | None, *, now: datetime) -> float | None:
    """Seconds from an ISO 8601 moment to `now`, never negative; None if it is missing or no such moment."""
    try:
        then = datetime.fromisoformat(moment) if moment else None
        return None if then is None else max(0.0, (now - then).total_seconds())
    except (ValueError, TypeError):  # TypeError: a moment without a zone can't be compared
        return None


def _is_ours_to_see(process: Process) -> bool:
    here = this_process()
    return (process.boot_id, process.pid_namespace) == (here.boot_id, here.pid_namespace)
