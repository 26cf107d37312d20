"""One attempt, from its durable `adopt` to the entry that ends it, with a heartbeat all the while."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from accelerate import Accelerator

from dreambooth_resume.checkpoint.best import BestKept
from dreambooth_resume.checkpoint.commit import Committer
from dreambooth_resume.checkpoint.deletion import collect
from dreambooth_resume.checkpoint.format import SavedState
from dreambooth_resume.checkpoint.manager import CheckpointManager
from dreambooth_resume.checkpoint.reader import load_staged
from dreambooth_resume.checkpoint.stage import Stage
from dreambooth_resume.config.change_policy import OptionChange
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.inputs import CLASS_INPUTS_LIST, store_inputs
from dreambooth_resume.errors import (
    AccessDenied,
    DbrError,
    Interrupted,
    NonFinite,
    RefusedToGoOn,
    StoppedOnPurpose,
    StorageUnavailable,
)
from dreambooth_resume.preemption.budget import BudgetSource
from dreambooth_resume.preemption.requests import RequestSource
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.runs.adoption import Adoption
from dreambooth_resume.runs.entries import Process, Stopped
from dreambooth_resume.runs.history import STAGED_REASON, interruptions
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.meter import Meter
from dreambooth_resume.runs.notice import GO_NOW
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.patience import patiently
from dreambooth_resume.training.build import Assignment, Parts, build_parts
from dreambooth_resume.training.guards import gave_up, next_window, refuse_non_finite_state
from dreambooth_resume.training.hands import Hands
from dreambooth_resume.training.memory import with_enough_memory
from dreambooth_resume.training.metrics import MetricsSink
from dreambooth_resume.training.preview import Preview
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.training.pulse import Pulse, Situation
from dreambooth_resume.training.seed import ScriptState, saved_state
from dreambooth_resume.training.trackers.feed import Trackers
from dreambooth_resume.training.trainer import Trainer
from dreambooth_resume.training.validation_loss import Validation
from dreambooth_resume.workflows import wording
from dreambooth_resume.workflows.best import open_best
from dreambooth_resume.workflows.continuity import RedoneSteps, found_at_resume, say_at_resume
from dreambooth_resume.workflows.first_words import how_it_begins
from dreambooth_resume.workflows.hub_mirror import HubMirror, open_mirror
from dreambooth_resume.workflows.room import save_interval
from dreambooth_resume.workflows.shots import store_shots
from dreambooth_resume.workflows.trackers import Shown, open_trackers, shown_values

TRACKERS_SECONDS, TRACKERS_HURRIED_SECONDS = 30.0, 3.0
"""How long the end of an attempt waits for its trackers; hurried: somebody asks for the machine."""

_SEEDED = "taken from Diffusers' script"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What one process life needs to train the run that it holds."""

    storage: Storage
    stage: Stage | None
    """What this machine holds of a run whose home is elsewhere."""
    assignment: Assignment
    to_store: tuple[tuple[str, PictureSet], ...]
    """Lists and pictures that the home has no copies of."""
    accelerator: Accelerator
    adopted: Adoption[SavedState]
    process: Process
    watcher: Watcher
    reporter: Reporter
    not_exact_because: tuple[str, ...]
    before: TrainOptions | None
    """The options that the run had, where this attempt has others."""
    script: ScriptState | None
    """What Diffusers' script left at the step that this run begins from."""
    begins_segment: bool
    """The pictures are others than those of the steps before."""
    changes: tuple[OptionChange, ...]
    meter: Meter
    shown: Shown
    hands: Hands | None = None

    @property
    def number(self) -> int:
        return self.adopted.writer.attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class _Life:
    """The threads and channels of one attempt."""

    pulse: Pulse
    requests: RequestSource
    watcher: Watcher
    sink: MetricsSink
    trackers: Trackers
    mirror: HubMirror | None
    redone: RedoneSteps
    best: BestKept


def run_attempt(attempt: Attempt) -> Log:
    """Train to the end; the finished log. Raises the error that ended the attempt earlier."""
    patiently(lambda: attempt.storage.claim(attempt.number), tell=attempt.reporter.message)
    life = _begin_life(attempt)
    life.pulse.start()
    exit_code = DbrError.exit_code
    try:
        log = _train(attempt, life)
        exit_code = 0
    except DbrError as error:
        exit_code = error.exit_code
        raise
    finally:
        life.pulse.close(exit_code=exit_code, why=wording.in_a_line(sys.exception()))
    return log


def _begin_life(attempt: Attempt) -> _Life:
    base = attempt.adopted.base
    requests = RequestSource(attempt.storage, monotonic=time.monotonic)
    trackers = open_trackers(
        attempt.assignment.options.reporting,
        attempt.shown,
        storage=attempt.storage,
        log=attempt.adopted.writer.log,
        attempt=attempt.number,
        tell=attempt.reporter.message,
    )
    situation = Situation(
        step=base.step if base else 0,
        max_train_steps=attempt.assignment.max_train_steps,
        durable_step=base.step if base else None,
    )
    log, tell = attempt.adopted.writer.log, attempt.reporter.message
    redone = RedoneSteps(attempt.storage, log, attempt=attempt.number, tell=tell, found=situation.say_jump)
    best = open_best(attempt.assignment.options.checkpoints, attempt.storage, log)

    def listener(step: int, values: Mapping[str, float]) -> None:
        trackers.log(step, shown_values(values))
        redone.on_step(step, values)
        best.observe(step, values)

    sink = MetricsSink(attempt.storage, attempt=attempt.number, listener=listener)
    mirror = open_mirror(attempt.assignment.options.reporting, attempt.storage, attempt.adopted.writer)
    pulse = Pulse(
        attempt.storage,
        situation,
        attempt=attempt.number,
        process=attempt.process,
        requests=requests,
        sink=sink,
        meter=attempt.meter,
        other_alarm=lambda: mirror.alarm if mirror else None,
    )
    watcher = Watcher([attempt.watcher, requests, _budget(attempt)])
    return _Life(
        pulse=pulse,
        requests=requests,
        watcher=watcher,
        sink=sink,
        trackers=trackers,
        mirror=mirror,
        redone=redone,
        best=best,
    )


def _budget(attempt: Attempt) -> BudgetSource:
    log = attempt.adopted.writer.log
    totals = log.entries[-1].state.totals
    return BudgetSource(
        attempt.assignment.options.budget,
        interruptions=interruptions(log),
        totals=lambda: attempt.meter.on_top_of(totals),
    )


def _train(attempt: Attempt, life: _Life) -> Log:
    storage, adopted, options = attempt.storage, attempt.adopted, attempt.assignment.options
    life.pulse.enter("preparing")
    life.redone.start()
    try:
        staged, parts = _prepare(attempt, life)
    except (Interrupted, StoppedOnPurpose, RefusedToGoOn) as error:
        _say_stopped(attempt, life, error)
        raise
    seeded = None if staged or adopted.base else _seeded(attempt, parts)
    if (saved := staged or adopted.loaded or seeded) is not None:
        parts.state.load(saved)
    _look_at_the_joint(attempt, life, parts, saved)
    attempt.reporter.message(how_it_begins(attempt, parts, staged=staged))
    # Only now: what was staged has been read, and since the adopt nobody of a lower attempt can commit any more.
    _asked_patiently(attempt, life, lambda: collect(storage, adopted.writer.log, attempt=attempt.number))
    interval_steps, interval_seconds = save_interval(options)
    manager = CheckpointManager(
        Committer(
            storage,
            adopted.writer,
            export_weights=parts.export_weights,
            flush_metrics=lambda _step: life.sink.flush(durable=True),
            total_limit=options.checkpoints.checkpoints_total_limit,
            keep_every=options.checkpoints.keep_every,
            keep=life.best.keep,
            stage=attempt.stage,
            max_train_steps=attempt.assignment.max_train_steps,
            begins_at=parts.state.global_step,
            refuse=refuse_non_finite_state,
            meter=attempt.meter,
        ),
        interval_steps=interval_steps,
        interval_seconds=interval_seconds,
        base=adopted.base,
    )
    manager.start()
    life.trackers.start()
    if life.mirror is not None:
        life.mirror.start()
    try:
        if staged is not None:
            manager.save_in_background(parts.state, reason=f"{STAGED_REASON} {attempt.number - 1}")
        if seeded is not None:
            # The run's first commit. Told to leave meanwhile, the loop saves after its first step.
            manager.save_now(parts.state, reason=_SEEDED, give_up=life.watcher.should_stop)
        _trainer(attempt, life, parts, manager).run()
        life.redone.end()
        manager.write_finished()
    except NonFinite as error:
        skipped = adopted.writer.log.entries[-1].state.skipped
        if next_window(skipped, error) is None:
            manager.write_stopped(
                reason=f"step {error.step + 1}: {error.why}, after {len(skipped)} returns",
                exit_code=RefusedToGoOn.exit_code,
            )
            raise RefusedToGoOn(gave_up(skipped, error)) from error
        raise
    finally:
        notice = life.watcher.notice()
        manager.close(at_once=notice is not None and notice.insistence >= GO_NOW)
        hurried = notice is not None
        patience = TRACKERS_HURRIED_SECONDS if hurried else TRACKERS_SECONDS
        life.trackers.close(timeout_seconds=patience)
        if life.mirror is not None:
            life.mirror.close(timeout_seconds=patience)
        parts.loader.close()
    return adopted.writer.log


def _look_at_the_joint(attempt: Attempt, life: _Life, parts: Parts, saved: SavedState | None) -> None:
    """Is what trains what was committed? Kept in the status; a jump is said aloud."""
    if attempt.number == 1:
        return
    step, plan = parts.state.global_step, attempt.assignment.plan
    committed = None if saved is None else saved.tensors
    found = found_at_resume(plan, step=step, live=parts.state.tensors(), committed=committed)
    life.pulse.situation.resumed = found
    say_at_resume(found, attempt.reporter.message)
    life.redone.begins_at(step, at_once=lambda: parts.portions.size)


def _prepare(attempt: Attempt, life: _Life) -> tuple[SavedState | None, Parts]:
    """Copy and encode what the home lacks, and load the model. Raises what a notice asks for in between."""
    life.watcher.leave_if_asked("getting ready")
    if attempt.assignment.options.data.store_inputs and not _asked_patiently(
        attempt, life, lambda: _store_inputs(attempt, life.watcher.should_stop)
    ):
        life.watcher.leave_if_asked("copying the pictures")
    _asked_patiently(attempt, life, lambda: store_shots(attempt.storage, attempt.assignment.shots))
    staged = _asked_patiently(attempt, life, lambda: _staged(attempt))

    def build() -> Parts:
        return build_parts(
            attempt.assignment,
            attempt.storage,
            accelerator=attempt.accelerator,
            reporter=attempt.reporter,
            watcher=life.watcher,
            hands=attempt.hands,
        )

    wait = partial(life.watcher.wait, doing="waiting for memory")
    return staged, with_enough_memory(build, attempt.assignment.options, tell=attempt.reporter.message, wait=wait)


def _seeded(attempt: Attempt, parts: Parts) -> SavedState | None:
    """The state that Diffusers' script left, if the run begins from that."""
    if attempt.script is None:
        return None
    return saved_state(attempt.script, parts.state, parts.modules, parts.export_weights)


def _store_inputs(attempt: Attempt, should_stop: Callable[[], bool]) -> bool:
    """Copy the pictures that the home lacks, and what class pictures were found. False if told to stop."""
    stored = all(
        store_inputs(attempt.storage, pictures, list_key=list_key, should_stop=should_stop)
        for list_key, pictures in attempt.to_store
    )
    ridden = attempt.assignment.class_pictures
    if not stored or ridden is None:
        return stored
    # An empty list, too: it says for ever that all class pictures are made.
    found = PictureSet(pictures=ridden.found)
    return store_inputs(attempt.storage, found, list_key=CLASS_INPUTS_LIST, should_stop=should_stop)


def _asked_patiently(attempt: Attempt, life: _Life, ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns, asked again while the storage does not answer and nobody wants us to leave."""
    return patiently(ask, tell=attempt.reporter.message, should_stop=life.watcher.should_stop)


def _say_stopped(attempt: Attempt, life: _Life, error: DbrError) -> None:
    """Before the first step there is nothing to save, but the next attempt need not wait for us to be gone."""
    notice = life.watcher.notice()
    body = Stopped(reason=notice.source if notice else str(error), exit_code=error.exit_code)
    with contextlib.suppress(StorageUnavailable, AccessDenied):
        attempt.adopted.writer.append(lambda log: (body, log.entries[-1].state))
    if error.exit_code == StoppedOnPurpose.exit_code:
        life.requests.answer_stops()
    else:
        life.requests.done(life.requests.open("stop"))


def _staged(attempt: Attempt) -> SavedState | None:
    """What the attempt just before wrote and could not commit: loaded in place of training those steps again."""
    adopted = attempt.adopted
    if not adopted.may_use_staged:
        return None
    base_step = adopted.base.step if adopted.base else 0
    before = attempt.number - 1
    found = [load_staged(attempt.storage, attempt=before, above_step=base_step)]
    if attempt.stage is not None:
        found.append(attempt.stage.load(attempt=before, above_step=base_step))
    # The run may have been made shorter since.
    fitting = [one for one in found if one is not None and one.step <= attempt.assignment.max_train_steps]
    return max(fitting, key=lambda state: state.step, default=None)


def _trainer(attempt: Attempt, life: _Life, parts: Parts, manager: CheckpointManager) -> Trainer:
    return Trainer(
        state=parts.state,
        train_step=parts.train_step,
        loader=parts.loader,
        portions=parts.portions,
        manager=manager,
        sink=life.sink,
        watcher=life.watcher,
        requests=life.requests,
        pulse=life.pulse,
        reporter=attempt.reporter,
        max_train_steps=attempt.assignment.max_train_steps,
        effective_batch=attempt.assignment.plan.batch_size,
        preview=_preview(attempt, life, parts),
        validation=_validation(attempt, life, parts),
        also_saves=attempt.assignment.is_saved_at,
    )


def _preview(attempt: Attempt, life: _Life, parts: Parts) -> Preview:
    assignment = attempt.assignment
    preview = Preview(
        parts.easel,
        assignment.timetable,
        seed=assignment.seed,
        storage=attempt.storage,
        attempt=attempt.number,
        should_stop=life.watcher.should_stop,
        reporter=attempt.reporter,
        default_prompt=assignment.options.data.instance_prompt or "",
    )
    preview.show = life.trackers.show
    return preview


def _validation(attempt: Attempt, life: _Life, parts: Parts) -> Validation | None:
    if parts.held_out_loss is None:
        return None
    timetable, should_stop = attempt.assignment.timetable, life.watcher.should_stop
    return Validation(parts.held_out_loss, timetable, should_stop=should_stop, reporter=attempt.reporter)
