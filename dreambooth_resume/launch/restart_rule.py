"""The one rule of all launchers: what happens after an attempt's process ended. Decided from values alone.

Restarted: 75, 70, a death by signal. Never: 0, 2, 76, 77, 78, 79. A lost machine restarts by coming back. Attempts that
crashed on a machine that lived on, three times without the run getting any further, are poisoned: then the run goes one
commit back, once, and after that it ends with 78. Lost machines, notices, 75 and 79 never count towards that. Whatever
it ended with, 500 starts in a row without getting further end with 78 too, since a platform starts 75 again for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dreambooth_resume.errors import ComeBack, DbrError, RefusedToGoOn
from dreambooth_resume.runs.entries import Adopt
from dreambooth_resume.runs.log import Log

CRASHES_AT_MOST = 3
RESTARTS_WITHOUT_PROGRESS = 500
"""After so many starts in a row that got the run no further nobody is helped by another: a day of waits is over."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 2.0, 300.0
_POISONED = "poisoned-step-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one process ended: with which code (minus the signal's number), and how far it is then."""

    code: int
    durable_step: int
    """The newest committed step of the run afterwards; 0: none. Of an evaluation, how many pictures are scored."""

    @property
    def is_crash(self) -> bool:
        return self.code < 0 or self.code == DbrError.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do now. `because` is a line for people."""

    action: Literal["end", "restart", "go back"]
    because: str
    exit_code: int = 0
    """Of the supervisor, to end with."""
    wait_seconds: float = 0.0
    step: int = 0
    """The committed step to go back to."""
    request_id: str = ""


def decide(endings: Sequence[Ending], log: Log, *, what: str = "run", unit: str = "step", in_a_row: int = 0) -> Verdict:
    """What to do after the last of `endings`, the ends that this machine saw, oldest first; `log` is the run's now.

    `what` is called so for people, and counted in `unit`. With an empty log there is nothing to go back to.
    `in_a_row` starts got it no further, those of earlier supervisors and machines too, as far as that is known.
    """
    last = endings[-1]
    if not last.is_crash and last.code != ComeBack.exit_code:
        return Verdict(action="end", because=f"exit code {last.code}", exit_code=last.code)
    stuck = _without_progress(endings)
    if (starts := max(len(stuck), in_a_row)) >= RESTARTS_WITHOUT_PROGRESS:
        because = f"{starts} starts in a row got the {what} no further than {unit} {last.durable_step}"
        return Verdict(action="end", because=because, exit_code=RefusedToGoOn.exit_code)
    crashes = sum(ending.is_crash for ending in stuck)
    if last.is_crash and crashes >= CRASHES_AT_MOST:
        return _after_poison(last, log, at=f"the {what} at {unit} {last.durable_step}")
    wait_seconds = min(FIRST_WAIT_SECONDS * 2.0 ** min(len(stuck) - 1, 20), LONGEST_WAIT_SECONDS)
    return Verdict(action="restart", because=how_it_ended(last.code), wait_seconds=wait_seconds)


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _without_progress(endings: Sequence[Ending]) -> list[Ending]:
    """The last endings that left the run at the same committed step; one of another step, be it lower, begins anew."""
    found: list[Ending] = []
    for ending in reversed(endings):
        if ending.durable_step != endings[-1].durable_step:
            break
        found.append(ending)
    return found


def _after_poison(last: Ending, log: Log, *, at: str) -> Verdict:
    """One commit back, unless that was done already for this step or a later one, or there is none before."""
    step = last.durable_step
    told = f"{CRASHES_AT_MOST} crashes on this machine with {at} ({how_it_ended(last.code)} at last)"
    usable = sorted({log.commit(number).step for number in log.usable_line()})
    before = [one for one in usable if one < step]
    gone_back_from = [
        int(request.removeprefix(_POISONED))
        for request in _requests(log)
        if request.startswith(_POISONED) and request.removeprefix(_POISONED).isdecimal()
    ]
    if before and not any(one >= step for one in gone_back_from):
        return Verdict(
            action="go back", because=told, step=before[-1], request_id=f"{_POISONED}{step}",
            wait_seconds=FIRST_WAIT_SECONDS,
        )  # fmt: skip
    done = " and going one commit back did not help" if gone_back_from else ""
    return Verdict(action="end", because=f"{told}{done}", exit_code=RefusedToGoOn.exit_code)


def _requests(log: Log) -> list[str]:
    return [
        entry.body.going_back
        for entry in log.entries
        if isinstance(entry.body, Adopt) and entry.body.going_back is not None
    ]
