"""`dbr train`: the same command starts a run, goes on with it, and says that it is finished."""

from __future__ import annotations

from dataclasses import dataclass, replace

from accelerate import Accelerator

from dreambooth_resume.checkpoint.format import SavedState
from dreambooth_resume.checkpoint.publish import publish
from dreambooth_resume.checkpoint.reader import load_checkpoint
from dreambooth_resume.config.contradictions import refuse_endless_warmup, remarks
from dreambooth_resume.config.load import GivenOptions, record
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.errors import BadInput, HolderAlive, StorageUnavailable
from dreambooth_resume.preemption.signals import SignalSource
from dreambooth_resume.preemption.watcher import Watcher, ending
from dreambooth_resume.runs.adoption import LATEST, Adoption, Wish, take_over
from dreambooth_resume.runs.entries import Process
from dreambooth_resume.runs.holder import Patience, this_process
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.record import Pins, RunRecord, new_record, write_record
from dreambooth_resume.storage.patience import patiently
from dreambooth_resume.storage.probe import probe
from dreambooth_resume.storage.urls import open_storage
from dreambooth_resume.training.build import Assignment, make_accelerator
from dreambooth_resume.training.numerics import make_deterministic, numerics_fingerprint
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.workflows import wording
from dreambooth_resume.workflows.attempt import Attempt, run_attempt
from dreambooth_resume.workflows.preflight import (
    Home,
    Options,
    as_json,
    check_length,
    check_room,
    choose_options,
    gather_inputs,
    open_home,
    total_steps,
)


def train(given: GivenOptions, reporter: Reporter) -> int:
    """Start or go on with the run in --output_dir until it is done. Returns 0, or raises the error that ended it."""
    signals = SignalSource()
    signals.install()
    watcher = Watcher([signals])
    try:
        output_dir = str(given.value("output_dir"))
        storage = open_storage(output_dir)
        home = patiently(lambda: open_home(storage, output_dir), tell=reporter.message, should_stop=watcher.should_stop)
        options = choose_options(home, given)
        finished = home.log if _is_done(home, given) else _train(home, options, signals, reporter)
        # The result files are copied after `finished` landed, by whoever comes first: a kill in between is mended here.
        reporter.message(wording.finished(storage, finished, publish(storage, finished)))
        return 0
    except (HolderAlive, StorageUnavailable) as error:
        if (notice := watcher.notice()) is not None:
            raise ending(notice, f"{notice.source}. {error}") from error
        raise
    finally:
        reporter.close()


def effective_batch(options: TrainOptions) -> int:
    """B: the samples of one optimizer update."""
    return options.training.train_batch_size * options.training.gradient_accumulation_steps


def _is_done(home: Home, given: GivenOptions) -> bool:
    """Finished, and nobody asks for more steps: nothing is loaded, and an empty machine will do."""
    last = home.log.last
    if home.log.finished is None or last is None:
        return False
    asked = given.values.get("max_train_steps")
    return not (isinstance(asked, int) and asked > last.state.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """All that is settled before the run's first byte is written."""

    assignment: Assignment
    pins: Pins
    accelerator: Accelerator
    numerics: dict[str, str]


def _train(home: Home, options: Options, signals: SignalSource, reporter: Reporter) -> Log:
    """From the base model's files to the finished log."""
    watcher = Watcher([signals])
    process = this_process()
    ready = _get_ready(home, options, reporter)
    run_record = home.record or _begin(home, ready)
    watcher.leave_if_asked("getting ready")
    adopted = _take_over(home, options, ready.assignment, process, watcher, reporter)
    if isinstance(adopted, Log):
        return adopted
    attempt = Attempt(
        storage=home.storage,
        assignment=replace(ready.assignment, seed=run_record.seed),
        accelerator=ready.accelerator,
        adopted=adopted,
        process=process,
        signals=signals,
        reporter=reporter,
        exactness=wording.exactness(run_record.numerics, ready.numerics),
        changes=options.changes,
    )
    return run_attempt(attempt)


def _get_ready(home: Home, options: Options, reporter: Reporter) -> _Ready:
    chosen = options.train
    make_deterministic(allow_tf32=chosen.training.allow_tf32, torch_threads=_torch_threads(home, chosen))
    inputs = gather_inputs(home, chosen)
    seed = chosen.training.seed
    assert seed is not None, "choose_options draws one where none was given"
    plan = Plan(
        seed=seed,
        picture_count=len(inputs.pictures.pictures),
        batch_size=effective_batch(chosen),
        repeats=chosen.data.repeats,
    )
    steps = total_steps(chosen, plan)
    refuse_endless_warmup(chosen, options.sources, max_train_steps=steps)
    check_length(home, chosen, max_train_steps=steps)
    check_room(home, chosen, inputs, max_train_steps=steps)
    fencing = probe(home.storage, allow_unfenced=chosen.checkpoints.unfenced)
    reporter.message(wording.plan(home.storage, inputs, plan, steps, fencing))
    for remark in remarks(chosen, options.sources):
        reporter.message(remark)
    accelerator = make_accelerator(chosen)
    return _Ready(
        assignment=Assignment(
            options=chosen,
            seed=seed,
            max_train_steps=steps,
            plan=plan,
            pictures=inputs.pictures,
            source=inputs.source,
            family=inputs.family,
            facts=inputs.facts,
            digests=inputs.digests,
        ),
        pins=Pins(
            base_model=dict(inputs.digests.files),
            base_commit=inputs.source.commit,
            vae_commit=inputs.source.vae_commit,
            dataset=inputs.fingerprint,
        ),
        accelerator=accelerator,
        numerics=numerics_fingerprint(
            device=accelerator.device,
            micro_batch_size=chosen.training.train_batch_size,
            mixed_precision=chosen.training.precision,
            allow_tf32=chosen.training.allow_tf32,
        ),
    )


def _torch_threads(home: Home, options: TrainOptions) -> int | None:
    """The user's number, else the run's, else torch's own."""
    if options.machine.torch_threads is not None or home.record is None:
        return options.machine.torch_threads
    recorded = home.record.numerics.get("torch_threads", "")
    return int(recorded) if recorded.isdigit() else None


def _begin(home: Home, ready: _Ready) -> RunRecord:
    """Write the new run's record. Raises BadInput if somebody else began a run here at this moment."""
    assignment = ready.assignment
    mine = new_record(
        options={**as_json(record(assignment.options)), "max_train_steps": assignment.max_train_steps},
        seed=assignment.seed,
        effective_batch=assignment.plan.batch_size,
        pins=ready.pins,
        numerics=ready.numerics,
    )
    stored = write_record(home.storage, mine)
    if stored.run_id != mine.run_id:
        raise BadInput(
            "another process began a run here at the same moment",
            where=f"--output_dir {home.storage.describe()}",
            fix="--resume latest to wait for it and go on with it, or another --output_dir",
        )
    return stored


def _take_over(
    home: Home, options: Options, assignment: Assignment, process: Process, watcher: Watcher, reporter: Reporter
) -> Adoption[SavedState] | Log:
    chosen = options.train.checkpoints
    wish = Wish(
        max_train_steps=assignment.max_train_steps,
        resume=chosen.resume_from_checkpoint or LATEST,
        request_id=chosen.resume_request_id,
        reopen=home.log.finished is not None,
        changed_options=options.changed,
    )
    patience = Patience(
        wait_seconds=chosen.wait_for_holder,
        take_over=chosen.take_over,
        should_stop=watcher.should_stop,
        tell=reporter.message,
    )
    storage = home.storage
    return patiently(
        lambda: take_over(
            storage, wish, load=lambda ref: load_checkpoint(storage, ref), process=process, patience=patience
        ),
        tell=reporter.message,
        should_stop=watcher.should_stop,
    )
