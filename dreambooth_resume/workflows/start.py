"""From a checked start to the finished log. Everything here needs torch, so `train` imports it only when it must."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from accelerate import Accelerator

from dreambooth_resume.checkpoint.format import SavedState
from dreambooth_resume.checkpoint.reader import load_checkpoint
from dreambooth_resume.checkpoint.stage import Stage
from dreambooth_resume.config.load import record
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.buckets import buckets_of
from dreambooth_resume.data.fingerprint import dataset_fingerprint
from dreambooth_resume.data.inputs import store_inputs
from dreambooth_resume.data.plan import skipping
from dreambooth_resume.errors import BadInput, ComeBack, NonFinite
from dreambooth_resume.launch.entrypoint import launch_here
from dreambooth_resume.preemption.slurm import job_here
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.runs.adoption import LATEST, Adoption, Wish, take_over
from dreambooth_resume.runs.entries import Adopt, CheckpointRef, Price, Process, SkippedSteps
from dreambooth_resume.runs.holder import Patience, this_process
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.meter import Meter
from dreambooth_resume.runs.record import Pins, RunRecord, new_record, write_record
from dreambooth_resume.storage.patience import patiently
from dreambooth_resume.training.build import Assignment, make_accelerator
from dreambooth_resume.training.guards import next_window
from dreambooth_resume.training.hands import Hands
from dreambooth_resume.training.memory import device_memory_bytes, micro_batch_size, release
from dreambooth_resume.training.numerics import compare_fingerprints, make_deterministic, numerics_fingerprint
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.training.seed import ScriptState, read_script_state, refuse_misfit
from dreambooth_resume.workflows import wording
from dreambooth_resume.workflows.attempt import Attempt, run_attempt
from dreambooth_resume.workflows.existing import store_weights
from dreambooth_resume.workflows.home import Home, stage_of
from dreambooth_resume.workflows.packages import of_the_numerics
from dreambooth_resume.workflows.preflight import Checked, Options, as_json
from dreambooth_resume.workflows.trackers import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """All that is settled before the run's first byte is written."""

    assignment: Assignment
    pins: Pins
    accelerator: Accelerator
    numerics: dict[str, str]


def start(checked: Checked, watcher: Watcher, reporter: Reporter, meter: Meter, *, hands: Hands | None = None) -> Log:
    """Begin the run or go on with it, to the finished log. Raises the error that ended the attempt earlier."""
    home, options = checked.home, checked.options
    process = this_process()
    ready = _get_ready(checked)
    script = _script_state(checked)
    mine = _new_record(ready)
    if checked.begins_from is not None:
        mine = mine.model_copy(update={"seeded_from": checked.begins_from.origin})
    run_record = home.record or patiently(
        lambda: _begin(home, mine, checked), tell=reporter.message, should_stop=watcher.should_stop
    )
    watcher.leave_if_asked("getting ready")
    differing = compare_fingerprints(run_record.numerics, ready.numerics)
    because = tuple(f"{name} {then} -> {now}" for name, then, now in differing)
    wish = _wish(checked, ready.assignment, not_exact_because=because, price=meter.price)
    if wish.dataset is not None:
        _store_first(checked, watcher, reporter)
    adopted = _take_over(home, options, wish, process, watcher, reporter)
    if isinstance(adopted, Log):
        return adopted
    if (request := wish.going_back) is not None and not _went_back(adopted):
        reporter.message(wording.went_back_before(adopted.writer.log, request, wish.resume))
    first = Attempt(
        storage=home.storage,
        stage=_stage(home, run_record),
        assignment=_as_the_log_has_it(_assigned(ready, checked, adopted, seed=run_record.seed), adopted),
        to_store=checked.inputs.to_store,
        accelerator=ready.accelerator,
        adopted=adopted,
        process=process,
        watcher=watcher,
        reporter=reporter,
        not_exact_because=because,
        script=script,
        begins_segment=checked.inputs.datasets.wished is not None,
        before=options.before if options.changes else None,
        changes=options.changes,
        meter=meter,
        shown=Shown(
            run_id=run_record.run_id,
            name=home.storage.describe().rstrip("/").rpartition("/")[2],
            options=run_record.options,
            folder=home.place.stage,
        ),
        hands=hands,
    )
    # What this start wished for is in the log by now.
    back = replace(wish, resume=LATEST, request_id=None, changed_options={}, changes=(), dataset=None)
    return _train(
        first,
        lambda window: _take_over(home, options, replace(back, rolled_back=window), process, watcher, reporter),
    )


def _train(attempt: Attempt, go_back: Callable[[SkippedSteps], Adoption[SavedState] | Log]) -> Log:
    """Run `attempt`, and another one whenever a guard has to go back. Raises what ended the last of them."""
    while True:
        try:
            return run_attempt(attempt)
        except NonFinite as error:
            wrong = NonFinite(error.why, step=error.step)  # without the traceback, which holds the whole model
        release()
        window = next_window(attempt.adopted.writer.log.entries[-1].state.skipped, wrong)
        assert window is not None, "an attempt that may not go back ends otherwise"
        adopted = go_back(window)
        if isinstance(adopted, Log):
            return adopted
        attempt.reporter.message(wording.rolled_back(window, adopted))
        assignment = _as_the_log_has_it(attempt.assignment, adopted)
        attempt = replace(
            attempt,
            adopted=adopted,
            assignment=assignment,
            before=None,
            begins_segment=False,
            changes=(),
            meter=Meter(attempt.meter.price),
        )


def _script_state(checked: Checked) -> ScriptState | None:
    """What Diffusers' script left, read and compared with the options before anything is written."""
    if checked.begins_from is None:
        return None
    script = read_script_state(checked.begins_from.folder, checked.begins_from.step)
    chosen, inputs = checked.options.train, checked.inputs
    expected = inputs.family.adapter_parameters(inputs.source, inputs.lora)
    refuse_misfit(script, chosen, adapter_parameters=expected)
    return script


def _as_the_log_has_it(assignment: Assignment, adopted: Adoption[SavedState]) -> Assignment:
    """The assignment with what was found out in the run's course: steps to skip, and what fits into memory."""
    state = adopted.writer.log.entries[-1].state
    return replace(
        assignment, plan=skipping(assignment.plan, state.skipped), smaller_micro_batch=state.smaller_micro_batch
    )


def _stage(home: Home, run_record: RunRecord) -> Stage | None:
    local = stage_of(home.place, run_record.run_id)
    return Stage(local) if local is not None else None


def _went_back(adopted: Adoption[SavedState]) -> bool:
    body = adopted.writer.log.entries[-1].body
    return isinstance(body, Adopt) and body.going_back is not None


def _get_ready(checked: Checked) -> _Ready:
    chosen, inputs = checked.options.train, checked.inputs
    make_deterministic(allow_tf32=chosen.training.allow_tf32, torch_threads=_torch_threads(checked.home, chosen))
    accelerator = make_accelerator(chosen)
    return _Ready(
        assignment=Assignment(
            options=chosen,
            seed=checked.plan.seed,
            max_train_steps=checked.max_train_steps,
            plan=checked.plan,
            pictures=inputs.pictures,
            source=inputs.source,
            family=inputs.family,
            facts=inputs.facts,
            digests=inputs.digests,
            lora=inputs.lora,
            existing=inputs.existing,
            class_pictures=inputs.class_pictures,
            shots=inputs.shots.shots,
            held_out=inputs.validation.pictures if inputs.validation else None,
            held_out_in_buckets=checked.home.record.held_out_in_buckets if checked.home.record else True,
        ),
        pins=Pins(
            base_model=dict(inputs.digests.files),
            base_commit=inputs.source.commit,
            vae_commit=inputs.source.vae_commit,
            dataset=inputs.datasets.first,
            network_weights=inputs.weights.sha256 if inputs.weights else None,
            class_pictures=dataset_fingerprint(inputs.class_pictures.found) if inputs.class_pictures else None,
        ),
        accelerator=accelerator,
        numerics=numerics_fingerprint(
            device=accelerator.device,
            micro_batch_size=micro_batch_size(
                chosen.training.train_batch_size,
                checked.home.log.last.state.smaller_micro_batch if checked.home.log.last else None,
                memory_bytes=device_memory_bytes(accelerator.device),
            ),
            mixed_precision=chosen.training.precision,
            allow_tf32=chosen.training.allow_tf32,
            base_precision=chosen.training.quantised_base,
            compiled_by=chosen.training.compiled_by,
            packages=of_the_numerics(chosen),
        ),
    )


def _torch_threads(home: Home, options: TrainOptions) -> int | None:
    """The user's number, else the run's, else torch's own."""
    if options.machine.torch_threads is not None or home.record is None:
        return options.machine.torch_threads
    recorded = home.record.numerics.get("torch_threads", "")
    return int(recorded) if recorded.isdigit() else None


def _new_record(ready: _Ready) -> RunRecord:
    assignment = ready.assignment
    return new_record(
        options={**as_json(record(assignment.options)), "max_train_steps": assignment.max_train_steps},
        seed=assignment.seed,
        effective_batch=assignment.plan.batch_size,
        block_size=assignment.options.training.train_batch_size,
        pins=ready.pins,
        numerics=ready.numerics,
        held_out_in_buckets=True,
    )


def _begin(home: Home, mine: RunRecord, checked: Checked) -> RunRecord:
    """Write the new run's record. Raises BadInput, or ComeBack with --resume, if somebody else was first."""
    options, weights = checked.options.train, checked.inputs.weights
    if weights is not None:
        store_weights(home.storage, weights)
    stored = write_record(home.storage, mine)
    if stored.run_id != mine.run_id:
        if options.checkpoints.resume_from_checkpoint is not None:
            # Nothing is wrong with the command: a launcher has to start it again, should the other one vanish.
            raise ComeBack(
                f"Another process began the run in {home.storage.describe()} at the same moment. "
                "The same command waits for it and goes on with the run."
            )
        raise BadInput(
            "another process began a run here at the same moment",
            where=home.place.flag,
            fix="--resume latest to wait for it and go on with it, or another --output_dir",
        )
    return stored


def _store_first(checked: Checked, watcher: Watcher, reporter: Reporter) -> None:
    """Copy a new data set to the home before the log names it: any machine can then go on, whenever this one dies."""
    for list_key, pictures in checked.inputs.datasets.to_store:
        store = partial(store_inputs, checked.home.storage, pictures, list_key=list_key)
        patiently(
            partial(store, should_stop=watcher.should_stop), tell=reporter.message, should_stop=watcher.should_stop
        )
    watcher.leave_if_asked("copying the pictures")


def _assigned(ready: _Ready, checked: Checked, adopted: Adoption[SavedState], *, seed: int) -> Assignment:
    """What the attempt trains on, now that the log says from which step on it is which data set."""
    segments = adopted.writer.log.entries[-1].state.segments
    plan = replace(ready.assignment.plan, seed=seed)
    pictures, plan = checked.inputs.datasets.in_order(segments, plan, buckets_of(checked.options.train.data))
    return replace(ready.assignment, seed=seed, plan=plan, pictures=pictures)


def _wish(checked: Checked, assignment: Assignment, *, not_exact_because: tuple[str, ...], price: Price | None) -> Wish:
    home, options = checked.home, checked.options
    chosen = options.train.checkpoints
    return Wish(
        max_train_steps=assignment.max_train_steps,
        resume=chosen.resume_target or LATEST,
        request_id=chosen.resume_request_id,
        reopen=home.log.finished is not None,
        changed_options=options.changed,
        changes=options.changes_for_the_log,
        dataset=checked.inputs.datasets.wished,
        not_exact_because=not_exact_because,
        price=price,
        job=job_here(os.environ),
        launch=launch_here(os.environ),
    )


def _take_over(
    home: Home, options: Options, wish: Wish, process: Process, watcher: Watcher, reporter: Reporter
) -> Adoption[SavedState] | Log:
    chosen = options.train.checkpoints
    patience = Patience(
        wait_seconds=chosen.wait_for_holder,
        take_over=chosen.take_over,
        should_stop=watcher.should_stop,
        tell=reporter.message,
    )
    patient = partial(patiently, tell=reporter.message, should_stop=watcher.should_stop)

    def load(ref: CheckpointRef) -> SavedState:
        # With a patience of its own: asking for everything again would adopt again, once for each time, and what the
        # attempt before had staged would no longer be that of the attempt just before.
        return patient(lambda: load_checkpoint(home.storage, ref))

    return patient(lambda: take_over(home.storage, wish, load=load, process=process, patience=patience, known=home.log))
