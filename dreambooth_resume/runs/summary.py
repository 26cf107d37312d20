"""How a run stands, from its newest log entry and one heartbeat. Derived each time, never stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.entries import (
    Adopt,
    Commit,
    Entry,
    Finished,
    Process,
    SkippedSteps,
    SmallerMicroBatch,
    Stopped,
    decode_entry,
)
from dreambooth_resume.runs.history import COMMAND_EXIT_CODE, before_commands
from dreambooth_resume.runs.home import LOG_PREFIX, log_key, log_number
from dreambooth_resume.runs.liveness import age_seconds, look_for_life
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.notes import read_notes
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.runs.status import Phase, Resumed, Status, read_status
from dreambooth_resume.storage.base import Storage

State = Literal["launched", "starting", "running", "interrupted", "stopped", "finished", "vanished"]
"""`launched`: a job was started for it, and it has written nothing of its own yet. `interrupted`: it left as the
platform wanted, and the same command goes on. `stopped`: it waits for the user. `vanished`: it held the run and is no
more, without a word; the same command goes on too."""

RESTARTED_EXIT_CODES = (70, 75)
"""After these, or a death without a word, a launcher starts the same command again; after any other nobody does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run at one moment. Ages are seconds by the clock of who looks."""

    home: str
    state: State
    because: str
    is_certain: bool
    """Read from the log or seen in this machine's process table, and not judged by the age of a heartbeat."""
    attempt: int | None
    """The newest attempt that trained; None before the first."""
    process: Process | None
    """Who holds the run, or held it to the last; None once it ended with a word."""
    phase: Phase | None
    step: int
    """As far as the newest attempt is known to have come; what of it is durable says the next field."""
    durable_step: int | None
    durable_age_seconds: float | None
    max_train_steps: int | None
    beat_age_seconds: float | None
    loss: float | None
    learning_rate: float | None
    samples_per_second: float | None
    steps_trained: int
    """Optimizer updates over all attempts, those made again included, as of the newest entry."""
    redone_steps: int
    training_seconds: float
    alarm: str | None
    skipped: tuple[SkippedSteps, ...] = ()
    """Steps that train on other samples, since a guard went back over them."""
    smaller_micro_batch: SmallerMicroBatch | None = None
    """What fits into memory at once, where it ran out."""
    exit_code: int | None = None
    """Of the newest attempt that trained, if it ended with a word; 0 of a finished run."""
    resumed: Resumed | None = None
    """What the newest attempt found when it went on, if it has said so."""

    @property
    def is_live(self) -> bool:
        return self.state in ("starting", "running")


def summarise(storage: Storage, *, now: datetime | None = None) -> RunSummary | None:
    """The run in `storage`, or None if there certainly is none. One LIST and, as a rule, two GETs.

    Raises RefusedToGoOn if the newest entry can't be read; AccessDenied and StorageUnavailable as the storage does.
    """
    now = now or datetime.now(UTC)
    newest = _newest_entry(storage)
    if newest is None:
        return _never_adopted(storage, now=now)
    status = read_status(storage, newest.attempt)
    verdict = _judge(storage, newest, status, now=now)
    before = newest.state
    return RunSummary(
        home=storage.describe(),
        state=verdict.state,
        because=verdict.because,
        is_certain=verdict.is_certain,
        attempt=verdict.attempt,
        process=verdict.process,
        phase=status.phase if status else None,
        step=max(before.step, status.step if status else 0),
        durable_step=before.step or None,
        durable_age_seconds=_durable_age(storage, newest, now=now),
        max_train_steps=before.max_train_steps or None,
        beat_age_seconds=verdict.beat_age_seconds,
        loss=status.loss if status else None,
        learning_rate=status.learning_rate if status else None,
        samples_per_second=status.samples_per_second if status and verdict.state == "running" else None,
        steps_trained=before.totals.steps,
        redone_steps=before.totals.redone_steps,
        training_seconds=before.totals.training_seconds,
        alarm=status.alarm if status and verdict.state not in ("finished", "stopped") else None,
        skipped=before.skipped,
        smaller_micro_batch=before.smaller_micro_batch,
        exit_code=verdict.exit_code,
        resumed=status.resumed if status else None,
    )


def summarise_launch(storage: Storage, *, now: datetime | None = None) -> RunSummary | None:
    """A run that was launched and has not begun, by the newest note of a launch; None if there is none.

    Where its job is, and whether it lives, the notes alone can't tell. Raises as the storage does.
    """
    notes = read_notes(storage, "launch")
    if not notes:
        return None
    age = age_seconds(notes[-1].written_at, now=now or datetime.now(UTC))
    because = f"launched ({notes[-1].text}), and it has written nothing yet"
    return _before_step_one(storage, state="launched", because=because, age=age, max_train_steps=None)


def _newest_entry(storage: Storage) -> Entry | None:
    listed = [number for found in storage.list(LOG_PREFIX) if (number := log_number(found.key)) is not None]
    if not listed:
        return None
    try:
        return decode_entry(storage.read(log_key(max(listed))))
    except (KeyNotFound, ValueError):
        return read_log(storage).last  # says what is wrong with the log, and what to do


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """The state, and what it was judged by."""

    attempt: int
    state: State
    because: str
    is_certain: bool = True
    process: Process | None = None
    beat_age_seconds: float | None = None
    exit_code: int | None = None


def _judge(storage: Storage, newest: Entry, status: Status | None, *, now: datetime) -> _Verdict:
    body, attempt = newest.body, newest.attempt
    if isinstance(body, Stopped) and body.exit_code == COMMAND_EXIT_CODE:
        trained = before_commands(read_log(storage))
        if trained is not None:
            body, attempt = trained.body, trained.attempt
        if isinstance(body, Adopt | Commit):
            # The command could adopt, so whoever held the run before it was gone.
            return _Verdict(attempt=attempt, state="vanished", because="left without a word")
    if isinstance(body, Finished):
        return _Verdict(attempt=attempt, state="finished", because="all steps are trained", exit_code=0)
    if isinstance(body, Stopped):
        ended = body.exit_code
        return _Verdict(attempt=attempt, state=_after_exit(ended), because=body.reason, exit_code=ended)
    if status is not None and status.phase == "ended" and status.exit_code is not None:
        because = status.why or f"ended with exit code {status.exit_code}, and could not write that to the log"
        ended = status.exit_code
        return _Verdict(attempt=attempt, state=_after_exit(ended), because=because, exit_code=ended)
    process = body.process if isinstance(body, Adopt) else status.process if status else _holder(storage)
    life = look_for_life(process, last_sign=max(newest.written_at, status.updated_at if status else ""), now=now)
    state: State = "vanished"
    if life.is_live:
        state = "running" if status is not None and status.phase in ("training", "validating", "saving") else "starting"
    return _Verdict(
        attempt=attempt,
        state=state,
        because=life.because,
        is_certain=life.is_certain,
        process=process,
        beat_age_seconds=life.beat_age_seconds,
    )


def _holder(storage: Storage) -> Process | None:
    """Who holds the run by the log alone: the heartbeat is a hint and may be missing."""
    adopt = read_log(storage).adopt
    return adopt.body.process if adopt is not None and isinstance(adopt.body, Adopt) else None


def _after_exit(exit_code: int) -> State:
    return "interrupted" if exit_code in RESTARTED_EXIT_CODES else "stopped"


def _durable_age(storage: Storage, newest: Entry, *, now: datetime) -> float | None:
    """Since the newest checkpoint of the line was committed."""
    if isinstance(newest.body, Commit):
        return age_seconds(newest.written_at, now=now)
    numbers = [ref.number for ref in newest.state.live if ref.step == newest.state.step]
    try:
        entry = decode_entry(storage.read(log_key(max(numbers)))) if numbers else None
    except (KeyNotFound, ValueError):
        return None
    return age_seconds(entry.written_at, now=now) if entry else None


def _never_adopted(storage: Storage, *, now: datetime) -> RunSummary | None:
    """A first start is making its way to the first entry, or died on it."""
    record = read_record(storage)
    if record is None:
        return None
    life = look_for_life(None, last_sign=record.created_at, now=now)
    max_train_steps = record.options.get("max_train_steps")
    return _before_step_one(
        storage,
        state="starting" if life.is_live else "vanished",
        because="the first start has not begun to train" if life.is_live else "the first start ended before step 1",
        age=life.beat_age_seconds,
        max_train_steps=max_train_steps if isinstance(max_train_steps, int) else None,
    )


def _before_step_one(
    storage: Storage, *, state: State, because: str, age: float | None, max_train_steps: int | None
) -> RunSummary:
    return RunSummary(
        home=storage.describe(),
        state=state,
        because=because,
        is_certain=False,
        attempt=None,
        process=None,
        phase=None,
        step=0,
        durable_step=None,
        durable_age_seconds=None,
        max_train_steps=max_train_steps,
        beat_age_seconds=age,
        loss=None,
        learning_rate=None,
        samples_per_second=None,
        steps_trained=0,
        redone_steps=0,
        training_seconds=0.0,
        alarm=None,
    )
