"""Every attempt of a run: where it ran, from which step to which, why it ended, and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dreambooth_resume.errors import ComeBack
from dreambooth_resume.runs.entries import (
    Adopt,
    ChangedOption,
    Commit,
    Entry,
    Finished,
    PlatformJob,
    Price,
    Process,
    Segment,
    SetAside,
    Stopped,
    Totals,
)
from dreambooth_resume.runs.liveness import look_for_life
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.status import Status, read_status
from dreambooth_resume.storage.base import Storage

Ending = Literal["running", "finished", "stopped", "lost", "rolled back", "retried", "command"]
"""`rolled back`: a number wasn't finite, so the same process went back to the last good step. `retried`: the checkpoint it began from was damaged, so the same process adopted again, one back. `command`: not a
training but one entry of a command that found the run free."""

COMMAND_EXIT_CODE = 0
"""A training attempt that stops has another exit code; so 0 marks the `stopped` entry of a command."""


STAGED_REASON = "staged by attempt"
"""Begins the reason of a commit of what the attempt before had written in full and could not commit (rule 9)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt. Steps are optimizer updates; moments are ISO 8601, UTC."""

    number: int
    began_at: str
    ended_at: str | None
    process: Process
    base_folder: str | None
    """The checkpoint it began from; None: from step 0."""
    base_step: int
    reached_step: int
    """As far as it is known to have come. What a lost attempt did after its last heartbeat nobody knows."""
    durable_step: int
    checkpoints: tuple[str, ...]
    ending: Ending
    reason: str
    exit_code: int | None
    redone_steps: int
    """Steps of it that were, or will have to be, trained again."""
    set_aside: tuple[SetAside, ...]
    going_back: str | None
    reopened: bool
    machine_seconds: float = 0.0
    """From the start of its process to its end, as far as is known."""
    price: Price | None = None
    """Of its machine."""
    job: PlatformJob | None = None
    """Of a platform, with how often that had started it before."""
    changes: tuple[ChangedOption, ...] = ()
    """Options that it was given otherwise than the run had them."""
    segment: Segment | None = None
    """The data set that it began, on purpose, in place of the one before."""


def read_history(storage: Storage, *, log: Log | None = None) -> tuple[Attempt, ...]:
    """All attempts, oldest first; `log` is the run's, where it was read already.

    A missing heartbeat costs precision only; a log with a gap raises RefusedToGoOn.
    """
    log = read_log(storage) if log is None else log
    found = {
        entry.attempt: read_status(storage, entry.attempt) for entry in log.entries if isinstance(entry.body, Adopt)
    }
    statuses = {attempt: status for attempt, status in found.items() if status is not None}
    return history_of(log, statuses, now=datetime.now(UTC))


def history_of(log: Log, statuses: Mapping[int, Status], *, now: datetime) -> tuple[Attempt, ...]:
    """The attempts that `log` tells of; `statuses` are their heartbeats as far as there are any."""
    lives = _lives(log)
    return tuple(
        _attempt(log, life, following, statuses.get(life[0].attempt), now=now)
        for life, following in zip(lives, [*lives[1:], ()], strict=False)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryTotals:
    """What a run took over all its attempts; steps and seconds are those of the newest log entry."""

    attempts: int
    """Trainings; commands that held the run for one entry are not counted."""
    machines: int
    interruptions: int
    """Attempts that ended before the run did."""
    checkpoints: int
    steps_trained: int
    redone_steps: int
    training_seconds: float
    machine_seconds: float = 0.0
    cost: float | None = None
    """In US dollars; None if no attempt's price is known."""
    on_demand_cost: float | None = None
    """What the same hours would have cost on demand; None unless that is known of every attempt with a price."""
    unpriced_seconds: float = 0.0
    """Machine time whose price isn't known."""


def totals_of(attempts: Sequence[Attempt], totals: Totals) -> HistoryTotals:
    trained = [attempt for attempt in attempts if attempt.ending not in ("command", "retried")]
    return HistoryTotals(
        attempts=len(trained),
        machines=len({attempt.process.host for attempt in trained}),
        interruptions=sum(attempt.ending in ("stopped", "lost") for attempt in trained),
        checkpoints=sum(len(attempt.checkpoints) for attempt in attempts),
        steps_trained=totals.steps,
        redone_steps=totals.redone_steps,
        training_seconds=totals.training_seconds,
        machine_seconds=sum(attempt.machine_seconds for attempt in attempts),
        cost=_cost(attempts, lambda price: price.per_hour),
        on_demand_cost=_cost(attempts, lambda price: price.on_demand_per_hour),
        unpriced_seconds=sum(attempt.machine_seconds for attempt in attempts if attempt.price is None),
    )


def _cost(attempts: Sequence[Attempt], an_hour: Callable[[Price], float | None]) -> float | None:
    """What the attempts with a price cost together at `an_hour` of it; None if that is missing of one, or of all."""
    hours = [(attempt.machine_seconds / 3600.0, an_hour(attempt.price)) for attempt in attempts if attempt.price]
    if not hours or any(price is None for _, price in hours):
        return None
    return sum(spent * price for spent, price in hours if price is not None)


def interruptions(log: Log) -> int:
    """How often the run was interrupted before its newest attempt: machines lost or taken back, and crashes."""
    before = history_of(log, {}, now=datetime.now(UTC))[:-1]
    return sum(
        attempt.ending == "lost" or (attempt.ending == "stopped" and attempt.exit_code == ComeBack.exit_code)
        for attempt in before
    )


def before_commands(log: Log) -> Entry | None:
    """The newest entry that isn't a command's own: it tells how the training stands."""
    kept = list(log.entries)
    while kept and isinstance(kept[-1].body, Stopped) and kept[-1].body.exit_code == COMMAND_EXIT_CODE:
        process = _adopt_before(kept).process
        while kept and not (isinstance(kept[-1].body, Adopt) and kept[-1].body.process == process):
            kept.pop()
        # A command that met damaged checkpoints has adopted more than once.
        while kept and isinstance(kept[-1].body, Adopt) and kept[-1].body.process == process:
            kept.pop()
    return kept[-1] if kept else None


def _adopt_before(entries: Sequence[Entry]) -> Adopt:
    return next(entry.body for entry in reversed(entries) if isinstance(entry.body, Adopt))


def _lives(log: Log) -> list[tuple[Entry, ...]]:
    """The entries attempt by attempt, each beginning with its adopt."""
    lives: list[list[Entry]] = []
    for entry in log.entries:
        if isinstance(entry.body, Adopt) or not lives:
            lives.append([])
        lives[-1].append(entry)
    return [tuple(life) for life in lives if isinstance(life[0].body, Adopt)]


def _attempt(
    log: Log, life: tuple[Entry, ...], following: tuple[Entry, ...], status: Status | None, *, now: datetime
) -> Attempt:
    adopt, last = life[0], life[-1]
    assert isinstance(adopt.body, Adopt)
    commits = [entry.body for entry in life if isinstance(entry.body, Commit)]
    durable_step = commits[-1].step if commits else adopt.state.step
    reached_step = max(durable_step, status.step if status else 0)
    goes_on_from = _first_step(following) if following else durable_step
    ending, reason, exit_code = _ending(life, following, status, now=now)
    return Attempt(
        number=adopt.attempt,
        began_at=adopt.written_at,
        ended_at=None if ending == "running" else _last_sign(last, status),
        process=adopt.body.process,
        base_folder=log.commit(adopt.body.base).folder if adopt.body.base is not None else None,
        base_step=adopt.state.step,
        reached_step=reached_step,
        durable_step=durable_step,
        checkpoints=tuple(commit.folder for commit in commits),
        ending=ending,
        reason=reason,
        exit_code=exit_code,
        machine_seconds=_machine_seconds(life, following, status),
        price=adopt.body.price,
        job=adopt.body.job,
        redone_steps=0 if ending == "running" else max(0, reached_step - goes_on_from),
        set_aside=adopt.body.set_aside,
        going_back=adopt.body.going_back,
        reopened=adopt.body.reopened,
        changes=adopt.body.changes,
        segment=_begun_segment(log, adopt),
    )


def _machine_seconds(life: tuple[Entry, ...], following: tuple[Entry, ...], status: Status | None) -> float:
    """What the next attempt found, or the newest entry has; a heartbeat may know of more."""
    before = life[0].state.totals.machine_seconds
    after = (following[0] if following else life[-1]).state.totals.machine_seconds
    told = status.machine_seconds if status is not None and status.machine_seconds is not None else 0.0
    return round(max(after - before, told), 3)


def _begun_segment(log: Log, adopt: Entry) -> Segment | None:
    before = log.entries[adopt.number - 2].state.segments if adopt.number > 1 else ()
    begun = adopt.state.segments
    return begun[-1] if begun and begun != before else None


def _first_step(life: tuple[Entry, ...]) -> int:
    """The step that an attempt trained on from."""
    commits = [entry.body for entry in life if isinstance(entry.body, Commit)]
    if commits and commits[0].reason.startswith(STAGED_REASON):
        return commits[0].step
    return life[0].state.step


def _ending(
    life: tuple[Entry, ...], following: tuple[Entry, ...], status: Status | None, *, now: datetime
) -> tuple[Ending, str, int | None]:
    adopt, last = life[0], life[-1]
    assert isinstance(adopt.body, Adopt)
    if isinstance(last.body, Finished):
        return "finished", "all steps trained", 0
    if isinstance(last.body, Stopped):
        is_command = last.body.exit_code == COMMAND_EXIT_CODE
        return "command" if is_command else "stopped", last.body.reason, last.body.exit_code
    if following and isinstance(following[0].body, Adopt) and following[0].body.process == adopt.body.process:
        if (window := following[0].body.rolled_back) is not None and window != adopt.body.rolled_back:
            return (
                "rolled back",
                f"step {window.last + 1}: {window.why}; went back to step {following[0].state.step}",
                None,
            )
        damaged = ", ".join(aside.folder for aside in following[0].body.set_aside) or "the checkpoint"
        return "retried", f"{damaged} is damaged: adopted again, one back", None
    if status is not None and status.phase == "ended":
        return "stopped", status.why or "ended without being able to write so to the log", status.exit_code
    if following:
        return "lost", "the next attempt found it gone", None
    life_now = look_for_life(adopt.body.process, last_sign=_last_sign(last, status), now=now)
    return ("running" if life_now.is_live else "lost"), life_now.because, None


def _last_sign(last: Entry, status: Status | None) -> str:
    """The later of the two: ISO 8601 in UTC sorts like time."""
    return max(last.written_at, status.updated_at if status else "")
