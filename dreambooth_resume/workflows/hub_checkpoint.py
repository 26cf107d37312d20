"""A checkpoint in a repository on the Hub, with all that a run needs to go on from it in an empty home.

It is a copy, made after the commit, and never a second home: nobody writes a log there, and a run that begins from it
is a new run with a home of its own. `mirror.json` beside the files is sealed and holds the log entry, whose digests the
files are compared with, and the run's record. Pictures, the LoRA that the run began from (network_weights), and folders
of the machine that trained are not in it.

Kill anywhere while a run is begun from one: first that LoRA, if there is one, and `run.json`, then an adopt, the files,
and the entry that commits them; the same command ends the work, and until then nothing is trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from pydantic import JsonValue, ValidationError

from dreambooth_resume.checkpoint.deletion import collect
from dreambooth_resume.config.change_policy import compare, refuse_if_refused
from dreambooth_resume.config.load import GivenOptions, record, resolve
from dreambooth_resume.errors import BadInput, RefusedToGoOn
from dreambooth_resume.models.hub import Hub
from dreambooth_resume.runs.adoption import Wish, take_over
from dreambooth_resume.runs.entries import CheckpointRef, Commit, Entry, sealed, unsealed
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.home import checkpoint_folder
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.record import ForkOrigin, RunRecord, new_record, read_record, write_record
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.existing import store_weights, weights_again
from dreambooth_resume.workflows.fork import carried_over, commit_copy, copy_checkpoint_file
from dreambooth_resume.workflows.holders import Waiting, signs_of_life, write_command_entry
from dreambooth_resume.workflows.home import HUB_ORIGIN, Home
from dreambooth_resume.workflows.preflight import as_json, changes_for_the_log, with_absolute_folders

MIRROR_NAME = "mirror.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mirrored:
    """What lies in the repository: a folder of this machine with it, the run's record, and the checkpoint's entry."""

    source: Storage
    record: RunRecord
    entry: Entry
    ref: CheckpointRef


def resumable_files(storage: Storage, log: Log, ref: CheckpointRef) -> dict[str, bytes]:
    """What makes a repository one that a run can begin from: the checkpoint's files as committed, and `mirror.json`."""
    from dreambooth_resume.checkpoint.reader import read_checked  # imports torch

    run_record = read_record(storage)
    assert run_record is not None, "a run with checkpoints has a record"
    kept = {name: value for name, value in run_record.options.items() if not _is_of_a_machine(value)}
    entry = log.entries[ref.number - 1]
    no_origin = {"forked_from": None, "seeded_from": None}  # they name folders, too
    facts = {
        "format": _FORMAT,
        "record": json.loads(run_record.model_copy(update={**no_origin, "options": kept}).model_dump_json()),
        "entry": json.loads(_without_machine(entry).model_dump_json()),
    }
    files = {file.key: read_checked(storage, file) for file in ref.files}
    return {**files, f"{ref.folder}/{MIRROR_NAME}": sealed(facts)}


def begin_from_hub(
    home: Home, address: tuple[str, str], given: GivenOptions, *, hub: Hub, tell: Callable[[str], None]
) -> None:
    """See to it that the home begins with the checkpoint (repository, folder); does nothing if it did so before.

    Raises BadInput for a checkpoint that isn't there, an option that is missing or can't be another one, and a home
    with another run; CheckpointDamaged, RefusedToGoOn; AccessDenied and HubUnreachable.
    """
    repo, folder = address
    origin = HUB_ORIGIN + repo
    begun = home.record.forked_from if home.record else None
    if home.record is not None and (begun is None or (begun.home, begun.folder) != (origin, folder)):
        raise BadInput(
            "the folder holds a run already, which did not begin from that checkpoint",
            where=home.place.flag,
            fix="--resume latest to go on with it, or another --output_dir for a new run",
        )
    if home.log.line:
        return
    mirrored = _fetch(repo, folder, hub=hub)
    stored = home.record or _begin(home.storage, mirrored, _new_record(mirrored, origin, given), given)
    if stored.forked_from is None or stored.forked_from.run_id != mirrored.record.run_id:
        raise RefusedToGoOn(f"{repo} holds a checkpoint of another run than the one that was begun here.")
    wish = Wish(
        max_train_steps=cast(int, stored.options["max_train_steps"]),
        changes=stored.forked_from.changes,
    )
    adopted = take_over(
        home.storage,
        wish,
        load=lambda _ref: None,
        process=this_process(),
        patience=Waiting(tell=tell).for_a_free_run(),
    )
    if isinstance(adopted, Log) or adopted.base is not None:
        return  # another start of the same command was quicker
    writer = adopted.writer
    home.storage.claim(writer.attempt)
    collect(home.storage, writer.log, attempt=writer.attempt)
    with signs_of_life(home.storage, writer):
        target = checkpoint_folder(mirrored.ref.step, writer.attempt)
        files = tuple(copy_checkpoint_file(mirrored.source, home.storage, file, target) for file in mirrored.ref.files)
        then = carried_over(mirrored.entry.state, effective_batch=stored.effective_batch)
        commit_copy(writer, mirrored.ref, target, files, then, origin=origin)
        write_command_entry(writer, f"begun from {folder} of {origin}")
    tell(f"{folder} of {origin} is in {home.storage.describe()}, every byte as its log entry says.")


def _begin(storage: Storage, mirrored: _Mirrored, mine: RunRecord, given: GivenOptions) -> RunRecord:
    """Write the record, and before it the LoRA that the run began from, if it did: later starts look for it there."""
    if (pinned := mirrored.record.pins.network_weights) is not None:
        chosen = given.value("network_weights")
        store_weights(storage, weights_again(None if chosen is None else str(chosen), pinned))
    return write_record(storage, mine)


def _fetch(repo: str, folder: str, *, hub: Hub) -> _Mirrored:
    where = f"--resume_from_checkpoint {repo}/{folder}"
    commit, names = hub.list_files(repo, revision=None, flag="--resume_from_checkpoint")
    if f"{folder}/{MIRROR_NAME}" not in names:
        there = sorted({name.partition("/")[0] for name in names if name.endswith(f"/{MIRROR_NAME}")})
        fix = f"name {' or '.join(there)}" if there else "such are uploaded by --hub_strategy checkpoint"
        raise BadInput(f"{repo} has no {folder} that a run can go on from", where=where, fix=fix)
    listed = [f"{folder}/{MIRROR_NAME}"]
    source = LocalStorage(hub.download(repo, commit=commit, names=listed))
    try:
        facts = unsealed(source.read(listed[0]))
        if facts.get("format") != _FORMAT:
            raise RefusedToGoOn(f"{repo}/{folder} was uploaded by a newer dbr: update this one.")
        run_record, entry = RunRecord.model_validate(facts["record"]), Entry.model_validate(facts["entry"])
    except (ValueError, ValidationError, KeyError) as error:
        raise RefusedToGoOn(f"{repo}/{folder}/{MIRROR_NAME} is damaged: {error}") from error
    body = entry.body
    # A key from elsewhere: it must not lead out of the checkpoint's folder.
    if not isinstance(body, Commit) or any(file.key.rpartition("/")[0] != folder for file in body.files):
        raise RefusedToGoOn(f"{repo}/{folder}/{MIRROR_NAME} is not that of a checkpoint")
    if entry.state.segments:
        raise BadInput(
            "the run changed its pictures on the way, and pictures are not on the Hub",
            where=where,
            fix="go on from its own home",
        )
    source = LocalStorage(hub.download(repo, commit=commit, names=[*listed, *(file.key for file in body.files)]))
    ref = CheckpointRef(
        number=entry.number, step=body.step, attempt=entry.attempt, folder=body.folder, files=body.files
    )
    return _Mirrored(source=source, record=run_record, entry=entry, ref=ref)


def _new_record(mirrored: _Mirrored, origin: str, given: GivenOptions) -> RunRecord:
    """The new home's `run.json`: the run's options, this machine's folders, and what was given otherwise."""
    given = with_absolute_folders(given)
    before = {**mirrored.record.options, **mirrored.entry.state.changed_options}
    # What was left out because it was a folder there is no change here.
    filled = {**{name: value for name, value in given.values.items() if name not in before}, **before}
    changes = compare(filled, given)
    refuse_if_refused(changes)
    options = resolve(given, recorded=before)
    steps, seed = options.training.max_train_steps, options.training.seed
    assert steps is not None, "run.json holds the number of steps that epochs made"
    assert seed is not None, "run.json holds the seed that was drawn"
    if steps < mirrored.ref.step:
        raise BadInput(
            f"{mirrored.ref.folder} has made {mirrored.ref.step} steps already",
            where=given.sources.get("max_train_steps", "max_train_steps"),
            fix=f"give more steps than {mirrored.ref.step}",
        )
    now = as_json(record(options))
    mine = new_record(
        options=now,
        seed=seed,
        effective_batch=mirrored.record.effective_batch,
        block_size=mirrored.record.samples_a_block,
        pins=mirrored.record.pins,
        numerics=mirrored.record.numerics,
        held_out_in_buckets=mirrored.record.held_out_in_buckets,
    )
    forked_from = ForkOrigin(
        run_id=mirrored.record.run_id,
        home=origin,
        number=mirrored.ref.number,
        step=mirrored.ref.step,
        folder=mirrored.ref.folder,
        changes=changes_for_the_log(changes, now),
    )
    return mine.model_copy(update={"forked_from": forked_from})


def _is_of_a_machine(value: JsonValue) -> bool:
    return isinstance(value, str) and value.startswith(("/", "~"))


def _without_machine(entry: Entry) -> Entry:
    """The entry without options that name folders; its own seal is left behind, the mirror has one of its own."""
    changed: Mapping[str, JsonValue] = entry.state.changed_options
    kept = {name: value for name, value in changed.items() if not _is_of_a_machine(value)}
    return entry.model_copy(update={"state": entry.state.model_copy(update={"changed_options": kept})})
