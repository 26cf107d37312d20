"""Taking a run over: adopt first, then look (DESIGN: rules 4 to 6, 10 and 11; the model in the protocol's report)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pydantic import JsonValue

from dreambooth_resume.errors import (
    BadInput,
    CheckpointDamaged,
    Fenced,
    NothingValid,
    OutcomeUnknown,
    RefusedToGoOn,
)
from dreambooth_resume.runs.entries import (
    Adopt,
    AttemptRef,
    ChangedOption,
    CheckpointRef,
    Commit,
    Entry,
    PlatformJob,
    Price,
    Process,
    RunState,
    Segment,
    SetAside,
    SkippedSteps,
    Totals,
)
from dreambooth_resume.runs.holder import Patience, wait_until_free
from dreambooth_resume.runs.log import Log, LogWriter, make_entry, put_entry, read_log
from dreambooth_resume.runs.meter import with_machine
from dreambooth_resume.runs.status import Status, read_status
from dreambooth_resume.storage.base import Storage

Loaded = TypeVar("Loaded")

LATEST = "latest"
# Every round either adopts, or sees that somebody else did, or sets one more checkpoint aside.
_ROUNDS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDataset:
    """A data set that is to take the place of the one that the run was last trained on."""

    fingerprint: str
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """From where the run is to go on.

    `resume` is `latest`, a step, or a checkpoint's full name; `request_id` makes a return to it happen once, however
    often the same command is started. `reopen` lets a finished run go on to `max_train_steps`. `changed_options`
    are those that hold in place of what `run.json` says; `not_exact_because` what differs of the numerics. `dataset`
    begins a segment: it holds from the adopted step on.
    """

    max_train_steps: int
    resume: str = LATEST
    request_id: str | None = None
    reopen: bool = False
    changed_options: Mapping[str, JsonValue] = field(default_factory=dict)
    changes: tuple[ChangedOption, ...] = ()
    dataset: NewDataset | None = None
    rolled_back: SkippedSteps | None = None
    """A guard wants back before these steps, and other samples for them; `resume` does not count then."""
    not_exact_because: tuple[str, ...] = ()
    price: Price | None = None
    job: PlatformJob | None = None
    launch: str | None = None

    @property
    def going_back(self) -> str | None:
        """The request id of a return, or None for `latest`."""
        if self.rolled_back is not None:
            return self.rolled_back.request_id
        return None if self.resume == LATEST else (self.request_id or self.resume)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption(Generic[Loaded]):
    """This process holds the run."""

    writer: LogWriter
    base: CheckpointRef | None
    loaded: Loaded | None
    """What `load` made of `base`."""
    set_aside: tuple[SetAside, ...]
    reason: str
    """Why the run was free."""
    may_use_staged: bool
    """The attempt just before stood on the same line and nobody went back: what it left uncommitted counts."""
    before: Status | None = None
    """The last heartbeat of the attempt before. A hint."""


@dataclass(slots=True, kw_only=True)
class _Search(Generic[Loaded]):
    """What one starter wants, and what it has learned so far."""

    storage: Storage
    wish: Wish
    load: Callable[[CheckpointRef], Loaded]
    process: Process
    nonce: str
    damaged: dict[int, SetAside] = field(default_factory=dict)
    loaded: dict[int, Loaded] = field(default_factory=dict)
    before: Status | None = None


def ref_of(log: Log, number: int) -> CheckpointRef:
    """The checkpoint that entry `number` committed."""
    commit, entry = log.commit(number), log.entries[number - 1]
    return CheckpointRef(
        number=number, step=commit.step, attempt=entry.attempt, folder=commit.folder, files=commit.files
    )


def take_over(
    storage: Storage,
    wish: Wish,
    *,
    load: Callable[[CheckpointRef], Loaded],
    process: Process,
    patience: Patience,
    known: Log | None = None,
) -> Adoption[Loaded] | Log:
    """Adopt the run in `storage` and load the checkpoint it goes on from; the log itself if the run is finished.

    `known` is the log as it was read before, if it was: its entries never change, and are not read again.
    `load` reads and verifies a checkpoint and raises CheckpointDamaged if it isn't what its entry says: it is then set
    aside, by a further adopt, and the one before is taken. Raises NothingValid, RefusedToGoOn, HolderAlive, and Fenced
    for a guard's return.
    """
    search: _Search[Loaded] = _Search(storage=storage, wish=wish, load=load, process=process, nonce=uuid.uuid4().hex)
    for _ in range(_ROUNDS_MAX):
        if wish.rolled_back is not None:
            _refuse_another_holder(storage, mine=process)
        log, reason = wait_until_free(storage, mine=process, patience=patience, known=known)
        if log.finished is not None and not (wish.reopen and wish.max_train_steps > log.entries[-1].state.step):
            return log
        target, going_back = _choose(log, search)
        if target is _LOG_GREW:
            continue
        assert target is None or isinstance(target, CheckpointRef)
        entry = _adopt_entry(log, target, going_back, search)
        if (adopted := _put_adopt(storage, entry)) is None:
            continue
        if target is not None and target.number not in search.loaded and not _try_load(target, search):
            continue
        return Adoption(
            writer=LogWriter(storage, log.with_entry(adopted), attempt=adopted.attempt),
            base=target,
            loaded=search.loaded[target.number] if target else None,
            set_aside=tuple(search.damaged.values()),
            reason=reason,
            before=search.before,
            may_use_staged=going_back is None
            and not search.damaged
            # What is staged was trained on the pictures of before.
            and adopted.state.segments == (log.last.state.segments if log.last else ())
            and _stands_on_newest(log, target),
        )
    raise RefusedToGoOn(f"{storage.describe()}: gave up after {_ROUNDS_MAX} tries to adopt this run.")


def _refuse_another_holder(storage: Storage, *, mine: Process) -> None:
    """Raises Fenced if somebody took the run over meanwhile: what a guard found is then no business of that one's."""
    adopt = read_log(storage).adopt
    if adopt is not None and isinstance(adopt.body, Adopt) and adopt.body.process != mine:
        raise Fenced(
            f"attempt {adopt.attempt} has taken this run over while this process went back to its last good step. It "
            "stops and has overwritten nothing."
        )


class _LogGrew:
    """Somebody wrote to the log while we judged it: start over."""


_LOG_GREW = _LogGrew()


def _choose(log: Log, search: _Search[Loaded]) -> tuple[CheckpointRef | _LogGrew | None, str | None]:
    """The checkpoint to adopt (None: step 0) and the request that it fulfils."""
    storage, wish = search.storage, search.wish
    going_back = wish.going_back
    usable = [number for number in log.usable_line() if number not in search.damaged]
    if wish.rolled_back is not None and (usable or not log.line):
        return _before(log, usable, wish.rolled_back), going_back
    if wish.rolled_back is None and going_back is not None and not log.has_request(going_back):
        target = _asked_for(log, wish.resume)
        problem = target if isinstance(target, str) else None
        if isinstance(target, CheckpointRef) and not _try_load(target, search):
            problem = search.damaged.pop(target.number).reason
        if problem is not None:
            return (_refuse(storage, log, f"--resume {wish.resume}: {problem}", RefusedToGoOn), None)
        assert isinstance(target, CheckpointRef)
        return target, going_back
    if usable:
        return ref_of(log, usable[-1]), None
    if not log.line:
        return None, None
    return (_refuse(storage, log, _nothing_valid(log, search), NothingValid), None)


def _before(log: Log, usable: list[int], window: SkippedSteps) -> CheckpointRef | None:
    """The newest of these checkpoints that holds none of the window's steps; None: step 0."""
    before = [number for number in usable if log.commit(number).step <= window.first]
    if before:
        return ref_of(log, before[-1])
    # Where nothing of the line is gone, step 0 is no further than its first checkpoint. Else all checkpoints from
    # before the window are: the one with the fewest of its steps is better than the whole way again.
    return None if len(usable) == len(log.line) else ref_of(log, usable[0])


def _refuse(storage: Storage, log: Log, message: str, error: type[RefusedToGoOn]) -> _LogGrew:
    """Before any 78 the log is read again: a verdict on yesterday's log could end a healthy run for ever (rule 6)."""
    if read_log(storage).next_number != log.next_number:
        return _LOG_GREW
    raise error(f"{storage.describe()}: {message}")


def _asked_for(log: Log, resume: str) -> CheckpointRef | str:
    """The checkpoint that the user named, or why it can't be taken."""
    commits = {entry.number: entry.body for entry in log.entries if isinstance(entry.body, Commit)}
    if resume.isdecimal():
        named = [number for number in log.line if commits[number].step == int(resume)]
    else:
        named = [number for number, commit in commits.items() if commit.folder == resume]
    usable = ", ".join(str(commits[number].step) for number in log.usable_line()) or "none"
    if not resume.isdecimal() and not resume.startswith("checkpoint-"):
        raise BadInput(
            f"'{resume}' names no checkpoint", where="--resume", fix="latest, a step such as 500, or checkpoint-500-a2"
        )
    if not named:
        return f"no such checkpoint in this run's line. There are: {usable}."
    number = named[-1]
    if number in log.retired:
        return f"that checkpoint was retired, its files are gone. There are: {usable}."
    if number in log.set_aside:
        return f"that checkpoint was set aside ({log.set_aside[number].reason}). There are: {usable}."
    return ref_of(log, number)


def _nothing_valid(log: Log, search: _Search[Loaded]) -> str:
    reasons = [f"{aside.folder}: {aside.reason}" for aside in {**log.set_aside, **search.damaged}.values()]
    reasons += [f"{log.commit(number).folder}: retired" for number in log.line if number in log.retired]
    outside = [log.commit(number).folder for number in log.off_line()]
    hint = (
        f"Outside of this line lie {', '.join(outside)}; take one with --resume {outside[-1]}"
        if outside
        else "Put a checkpoint's files back from a copy, or begin a new run in another folder"
    )
    return "checkpoints were committed and none can be used.\n  " + "\n  ".join(reasons[-5:]) + f"\n{hint}."


def _try_load(target: CheckpointRef, search: _Search[Loaded]) -> bool:
    try:
        search.loaded[target.number] = search.load(target)
    except CheckpointDamaged as error:
        search.damaged[target.number] = SetAside(number=target.number, folder=target.folder, reason=str(error))
        return False
    return True


def _adopt_entry(log: Log, target: CheckpointRef | None, going_back: str | None, search: _Search[Loaded]) -> Entry:
    wish = search.wish
    attempt = log.highest_attempt + 1
    base_step = target.step if target else 0
    body = Adopt(
        base=target.number if target else None,
        process=search.process,
        set_aside=tuple(search.damaged.values()),
        going_back=going_back,
        rolled_back=wish.rolled_back,
        reopened=log.finished is not None,
        not_exact_because=wish.not_exact_because,
        price=wish.price,
        job=wish.job,
        launch=wish.launch,
        changes=wish.changes,
    )
    before = log.last.state if log.last else RunState(step=0, max_train_steps=0, live=(), lineage=(), totals=Totals())
    link = AttemptRef(attempt=attempt, base=body.base, base_step=base_step)
    state = RunState(
        step=base_step,
        max_train_steps=wish.max_train_steps,
        live=tuple(ref for ref in before.live if ref.number not in search.damaged),
        lineage=(*before.lineage, link),
        totals=_totals_with_lost_work(search, log, before, base_step),
        changed_options={**before.changed_options, **wish.changed_options},
        segments=_segments(before, wish.dataset, base_step),
        skipped=_skipped(before, wish.rolled_back),
        smaller_micro_batch=before.smaller_micro_batch,
    )
    # One nonce a number: an earlier, late put of this very adopt is known again as ours.
    nonce = f"{search.nonce}-{log.next_number}"
    return make_entry(number=log.next_number, attempt=attempt, body=body, state=state, nonce=nonce)


def _segments(before: RunState, dataset: NewDataset | None, base_step: int) -> tuple[Segment, ...]:
    """The segments of before, and one that begins here if this is wished and wasn't done by an adopt just before."""
    newest = before.segments[-1].fingerprint if before.segments else None
    if dataset is None or dataset.fingerprint == newest:
        return before.segments
    # What was to hold later, before the run went back, is no more wished for than the steps that were gone back over.
    kept = tuple(segment for segment in before.segments if segment.from_step < base_step)
    begun = Segment(from_step=base_step, fingerprint=dataset.fingerprint, prompt=dataset.prompt)
    return (*kept, begun)


def _skipped(before: RunState, window: SkippedSteps | None) -> tuple[SkippedSteps, ...]:
    """The windows of before, and the new one, once: a damaged checkpoint makes a guard adopt again."""
    return before.skipped if window is None or window in before.skipped else (*before.skipped, window)


def _totals_with_lost_work(search: _Search[Loaded], log: Log, before: RunState, base_step: int) -> Totals:
    """Steps that an earlier attempt made and that are made again, and machine time that no entry has.

    Its heartbeat, a hint, says how far it came.
    """
    status = search.before = read_status(search.storage, log.highest_attempt) if log.entries else None
    reached = max(before.step, status.step if status else 0)
    totals = _with_time_behind_its_last_entry(log, before.totals, status)
    return totals.model_copy(
        update={
            "steps": before.totals.steps + max(0, reached - before.step),
            "redone_steps": before.totals.redone_steps + max(0, reached - base_step),
        }
    )


def _with_time_behind_its_last_entry(log: Log, totals: Totals, status: Status | None) -> Totals:
    adopt = log.adopt
    if adopt is None or status is None or status.machine_seconds is None or not isinstance(adopt.body, Adopt):
        return totals
    counted = totals.machine_seconds - adopt.state.totals.machine_seconds
    return with_machine(totals, max(0.0, status.machine_seconds - counted), adopt.body.price)


def _put_adopt(storage: Storage, entry: Entry) -> Entry | None:
    """The entry once it is durable; None if somebody else has its number."""
    for _ in range(3):
        try:
            stored = put_entry(storage, entry)
        except OutcomeUnknown:
            continue  # the same body under the same number: harmless if the first one lands late
        return stored if stored.nonce == entry.nonce else None
    raise OutcomeUnknown(f"{storage.describe()}: no answer when adopting this run. Start the same command again.")


def _stands_on_newest(log: Log, target: CheckpointRef | None) -> bool:
    """The adopted checkpoint is the newest of the line of the attempt just before."""
    return (target.number if target else None) == (log.line[-1] if log.line else None)
