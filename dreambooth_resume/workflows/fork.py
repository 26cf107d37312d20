"""A new run that begins where a checkpoint of another run left off: the checkpoint is copied, nothing is trained.

Kill anywhere: `run.json` goes first and names the origin, so no training takes the home for a run that begins at step
0; the checkpoint exists with its log entry, as everywhere. The same command goes on from wherever it was.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from pydantic import JsonValue

from dreambooth_resume.checkpoint.deletion import collect
from dreambooth_resume.config.change_policy import OptionChange, compare
from dreambooth_resume.config.contradictions import refuse_shapes_without_buckets
from dreambooth_resume.config.load import GivenOptions, record, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.data.inputs import FETCHED_FOLDER, INPUTS_PREFIX
from dreambooth_resume.errors import BadInput, CheckpointDamaged, KeyNotFound, RefusedToGoOn, StorageUnavailable
from dreambooth_resume.runs.adoption import Adoption, Wish, take_over
from dreambooth_resume.runs.checkpoints import find_checkpoint
from dreambooth_resume.runs.entries import (
    Adopt,
    CheckpointRef,
    Commit,
    EntryBody,
    LiveCheckpoint,
    RunState,
    StoredFile,
    Totals,
)
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.home import checkpoint_folder
from dreambooth_resume.runs.log import Log, LogWriter, read_log
from dreambooth_resume.runs.pull import newest_checkpoint
from dreambooth_resume.runs.record import ForkOrigin, RunRecord, new_record, read_record, write_record
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.reread import read_sound
from dreambooth_resume.workflows.holders import Waiting, signs_of_life, write_command_entry
from dreambooth_resume.workflows.home import Place, open_home
from dreambooth_resume.workflows.inventory import take_inventory
from dreambooth_resume.workflows.preflight import as_json, changes_for_the_log, with_absolute_folders

OnFile = Callable[[int, int], None]
"""Told how many files are there, of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """What the new home has. Not `is_new`: an earlier call of the same command had done it all."""

    step: int
    folder: str
    origin: str
    is_new: bool
    files: int
    size_bytes: int


def fork_run(
    source: Storage,
    target: Place,
    *,
    step: str | None,
    given: GivenOptions,
    waiting: Waiting,
    on_file: OnFile = lambda _done, _total: None,
) -> Forked:
    """Begin a run in `target` from the checkpoint `step` (None: the newest), with `given` in place of its options.

    Raises BadInput for a checkpoint that isn't there, an option that can't be another one, and a home that holds a run;
    CheckpointDamaged if the checkpoint isn't what its entry says; HolderAlive if another fork into `target` is at work.
    """
    origin = read_record(source)
    if origin is None:
        raise BadInput("there is no run here", where=source.describe(), fix="name the home of a run")
    log = read_log(source)
    ref = _checkpoint(source, log, step)
    mine = _new_record(source, origin, log, ref, given)
    stored = _begin(target, mine)
    if read_log(target.storage).line:
        return _forked(source, read_log(target.storage), is_new=False)
    wish = Wish(
        max_train_steps=cast(int, mine.options["max_train_steps"]),
        changes=stored.forked_from.changes if stored.forked_from else (),
        not_exact_because=_not_exact_because(log, ref),
    )
    adopted = take_over(
        target.storage, wish, load=lambda _ref: None, process=this_process(), patience=waiting.for_a_free_run()
    )
    if isinstance(adopted, Log) or adopted.base is not None:
        return _forked(source, read_log(target.storage), is_new=False)  # another call of this command was quicker
    then = carried_over(log.entries[ref.number - 1].state, effective_batch=stored.effective_batch)
    _copy(source, target.storage, adopted, then, ref, on_file)
    return _forked(source, adopted.writer.log, is_new=True)


def _checkpoint(source: Storage, log: Log, step: str | None) -> CheckpointRef:
    where = source.describe()
    ref = newest_checkpoint(log, where=where) if step is None else find_checkpoint(log, step, where=where)
    if ref.number in log.set_aside:
        raise RefusedToGoOn(f"{ref.folder} of {where} was set aside: {log.set_aside[ref.number].reason}")
    return ref


def _new_record(source: Storage, origin: RunRecord, log: Log, ref: CheckpointRef, given: GivenOptions) -> RunRecord:
    """The fork's `run.json`: the options that the run had when it made the checkpoint, and those given otherwise."""
    given = with_absolute_folders(given)
    recorded: Mapping[str, JsonValue] = {
        **origin.options,
        **log.entries[ref.number - 1].state.changed_options,
    }
    changes = compare(recorded, given)
    _refuse_what_does_not_fit(changes)
    options = resolve(given, recorded=recorded)
    refuse_shapes_without_buckets(options, given.sources)
    steps, seed = options.training.max_train_steps, options.training.seed
    assert steps is not None, "run.json holds the number of steps that epochs made"
    assert seed is not None, "run.json holds the seed that was drawn"
    if steps < ref.step:
        raise BadInput(
            f"{ref.folder} has made {ref.step} steps already",
            where=given.sources.get("max_train_steps", "max_train_steps"),
            fix=f"give more steps than {ref.step}, or an earlier checkpoint",
        )
    fork = new_record(
        options=as_json(record(options)),
        seed=seed,
        effective_batch=_samples_a_step(options) * origin.processes_at_start,
        block_size=origin.samples_a_block,
        pins=origin.pins,
        numerics=origin.numerics,
        held_out_in_buckets=origin.held_out_in_buckets,
    )
    forked_from = ForkOrigin(
        run_id=origin.run_id,
        home=source.describe(),
        number=ref.number,
        step=ref.step,
        folder=ref.folder,
        changes=changes_for_the_log(changes, as_json(record(options))),
    )
    return fork.model_copy(update={"forked_from": forked_from})


def _refuse_what_does_not_fit(changes: tuple[OptionChange, ...]) -> None:
    for change in changes:
        option = OPTIONS[change.name]
        if not option.in_fork:
            where = f"--set {change.name}={change.after}"
            raise BadInput("a fork keeps it, since it begins from a checkpoint", where=where, fix=option.advice)


def _samples_a_step(options: TrainOptions) -> int:
    return options.training.train_batch_size * options.training.gradient_accumulation_steps


def _begin(target: Place, mine: RunRecord) -> RunRecord:
    """Write the record, or find that of an earlier call of the same command. Raises BadInput for any other run."""
    home = open_home(target)
    stored = home.record or write_record(target.storage, mine)
    theirs, ours = stored.forked_from, mine.forked_from
    assert ours is not None
    is_same = theirs is not None and (theirs.run_id, theirs.number) == (ours.run_id, ours.number)
    if not is_same or stored.options != mine.options:
        raise BadInput(
            "the folder holds a run already, and not this fork",
            where=target.flag,
            fix="name a new folder, or go on with that run: dbr train --output_dir "
            f"{shlex.quote(target.storage.describe())} --resume latest",
        )
    return stored


def _not_exact_because(log: Log, ref: CheckpointRef) -> tuple[str, ...]:
    """Why the checkpoint's bytes are not those of an undisturbed run, if an attempt before it was not exact."""
    reasons = (
        reason
        for entry in log.entries[: ref.number]
        if isinstance(entry.body, Adopt)
        for reason in entry.body.not_exact_because
    )
    return tuple(dict.fromkeys(reasons))


def _copy(
    source: Storage,
    target: Storage,
    adopted: Adoption[None],
    then: RunState,
    ref: CheckpointRef,
    on_file: OnFile,
) -> None:
    """Pictures and what was computed from them, then the checkpoint, then its entry: this is the commit."""
    writer = adopted.writer
    target.claim(writer.attempt)
    collect(target, writer.log, attempt=writer.attempt)
    with signs_of_life(target, writer):
        keys = _shared_keys(source)
        total = len(keys) + len(ref.files)
        for done, key in enumerate(keys):
            on_file(done, total)
            _copy_shared(source, target, key)
        folder = checkpoint_folder(ref.step, writer.attempt)
        files: list[StoredFile] = []
        for file in ref.files:
            on_file(len(keys) + len(files), total)
            files.append(copy_checkpoint_file(source, target, file, folder))
        on_file(total, total)
        commit_copy(writer, ref, folder, tuple(files), then, origin=source.describe())
        write_command_entry(writer, f"dbr fork: begun from step {ref.step} of {source.describe()}")


def _shared_keys(source: Storage) -> list[str]:
    """Pictures, lists and cached encodings; lists last, since until its list exists a copy counts as incomplete."""
    inventory = take_inventory(source)
    found = [one.key for kind in ("cache", "pictures") for one in inventory.ours[kind]]
    kept = [key for key in found if not key.startswith(f"{FETCHED_FOLDER}/")]
    return sorted(kept, key=lambda key: ("/" not in key, key))


def _copy_shared(source: Storage, target: Storage, key: str) -> None:
    """A file that is the same in every home that has it. One that lies there otherwise is an interrupted copy's."""
    stored = source.digest(key)
    try:
        if target.digest(key) == stored:
            return
        target.delete(key)
    except KeyNotFound:
        pass

    def checked(body: bytes) -> bytes:
        name = key.removeprefix(INPUTS_PREFIX) if key.startswith(INPUTS_PREFIX) else stored.sha256
        if hashlib.sha256(body).hexdigest() != name:
            raise RefusedToGoOn(f"{source.describe()}: {key} is damaged. dbr can't copy it; put it back from a copy.")
        return body

    target.put_if_absent(key, read_sound(source, key, checked, damaged=RefusedToGoOn))
    if target.digest(key) != stored:
        raise StorageUnavailable(f"{target.describe()}: {key} was stored otherwise than it was written.")


def copy_checkpoint_file(source: Storage, target: Storage, file: StoredFile, folder: str) -> StoredFile:
    """One file of the checkpoint, compared with its entry when read and when stored."""
    name = file.key.rpartition("/")[2]

    def checked(body: bytes) -> bytes:
        if (len(body), hashlib.sha256(body).hexdigest()) != (file.size_bytes, file.sha256):
            raise CheckpointDamaged(f"{source.describe()}: {file.key} is not what was written (SHA-256 differs)")
        return body

    try:
        body = read_sound(source, file.key, checked, damaged=CheckpointDamaged)
    except KeyNotFound as error:
        raise CheckpointDamaged(f"{source.describe()}: {file.key} is missing, or was just retired.") from error
    key = f"{folder}/{name}"
    target.write(key, [body])
    stored = target.digest(key)
    if (stored.size_bytes, stored.sha256) != (file.size_bytes, file.sha256):
        raise StorageUnavailable(f"{target.describe()}: {key} was stored otherwise than it was written.")
    return StoredFile(key=key, size_bytes=file.size_bytes, sha256=file.sha256)


def commit_copy(
    writer: LogWriter, ref: CheckpointRef, folder: str, files: tuple[StoredFile, ...], then: RunState, *, origin: str
) -> None:
    def build(log: Log) -> tuple[EntryBody, RunState]:
        body = Commit(step=ref.step, folder=folder, files=files, reason=f"fork of {ref.folder} of {origin}")
        itself = LiveCheckpoint(number=log.next_number, step=ref.step, attempt=writer.attempt, folder=folder)
        before = log.entries[-1].state
        state = before.model_copy(
            update={
                "step": ref.step,
                "live": (itself,),
                "totals": Totals(),
                # The first two decide what the steps to come are trained on, the third in which portions.
                "segments": then.segments,
                "skipped": then.skipped,
                "smaller_micro_batch": then.smaller_micro_batch,
            }
        )
        return body, state

    writer.append(build)


def carried_over(then: RunState, *, effective_batch: int) -> RunState:
    """The origin's state at the checkpoint, as a run with that batch goes on from it.

    What fitted into the origin's memory becomes a size that divides the batch, of no attempt of the new run's.
    """
    if (smaller := then.smaller_micro_batch) is None:
        return then
    size = next(size for size in range(smaller.size, 0, -1) if effective_batch % size == 0)
    return then.model_copy(update={"smaller_micro_batch": smaller.model_copy(update={"size": size, "attempt": 0})})


def _forked(source: Storage, made: Log, *, is_new: bool) -> Forked:
    first = made.commit(made.line[0])
    return Forked(
        step=first.step,
        folder=first.folder,
        origin=source.describe(),
        is_new=is_new,
        files=len(first.files),
        size_bytes=sum(file.size_bytes for file in first.files),
    )
