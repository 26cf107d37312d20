"""`run.json`: what a run is, written once at its first start and the same for ever."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import JsonValue, ValidationError

from dreambooth_resume.errors import KeyNotFound, OutcomeUnknown, RefusedToGoOn
from dreambooth_resume.runs.entries import ChangedOption, Record, sealed, unsealed
from dreambooth_resume.runs.home import RUN
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.reread import read_sound

FORMAT = 2
"""Of new runs. Those of earlier formats go on under their own."""


class Pins(Record):
    """What must not change under a run: the base model's files and the pictures with their captions, as digests."""

    base_model: dict[str, str]
    base_commit: str | None = None
    """The Hub's commit of the base model; None for a folder."""
    vae_commit: str | None = None
    dataset: str
    network_weights: str | None = None
    """SHA-256 of the LoRA file that the run began from, which lies in inputs/; None for a fresh start."""
    class_pictures: str | None = None
    """The class pictures that were found in a folder; None without prior preservation."""


class ForkOrigin(Record):
    """Where a run began that did not begin at step 0: at a checkpoint of another run, by `dbr fork`."""

    run_id: str
    home: str
    """As it was typed. For people."""
    number: int
    """The checkpoint's log entry there."""
    step: int
    folder: str
    changes: tuple[ChangedOption, ...] = ()
    """The options that this run has otherwise."""


class SeedOrigin(Record):
    """The checkpoint of Diffusers' own script that a run began from."""

    folder: str
    step: int
    files: dict[str, str]
    """Name to SHA-256."""


class RunRecord(Record):
    """The run's identity, its options as resolved at the first start, and what exactness depends on."""

    format: int = FORMAT
    run_id: str
    created_at: str
    """ISO 8601, UTC. For people."""
    options: dict[str, JsonValue]
    seed: int
    effective_batch: int
    """B: samples in one optimizer update, fixed for the life of the run."""
    block_size: int | None = None
    """With buckets: samples of one shape that stand together, whatever the micro-batch is later. None in records of
    releases that did not write it: the options' train_batch_size."""
    pins: Pins
    numerics: dict[str, str]
    """The numerics fingerprint: equal means that a resume is exact to the bit."""
    held_out_in_buckets: bool = False
    """Held-out pictures are cut as those that train. Releases that did not write it cut them to squares."""
    forked_from: ForkOrigin | None = None
    seeded_from: SeedOrigin | None = None

    @property
    def samples_a_block(self) -> int:
        """The block size, also of a run whose record does not name it."""
        if self.block_size is not None:
            return self.block_size
        written = self.options["train_batch_size"]
        assert isinstance(written, int), "run.json holds a number"
        return written

    @property
    def processes_at_start(self) -> int:
        """How many processes the run was begun with: B counts them, whatever number goes on with it."""
        batch, accumulation = (self.options.get(name) for name in ("train_batch_size", "gradient_accumulation_steps"))
        if not isinstance(batch, int) or not isinstance(accumulation, int):
            return 1
        return max(1, self.effective_batch // (batch * accumulation))


def new_record(
    *,
    options: Mapping[str, JsonValue],
    seed: int,
    effective_batch: int,
    block_size: int,
    pins: Pins,
    numerics: Mapping[str, str],
    held_out_in_buckets: bool = False,
) -> RunRecord:
    return RunRecord(
        run_id=uuid.uuid4().hex,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        options=dict(options),
        seed=seed,
        effective_batch=effective_batch,
        block_size=block_size,
        pins=pins,
        numerics=dict(numerics),
        held_out_in_buckets=held_out_in_buckets,
    )


def read_record(storage: Storage) -> RunRecord | None:
    """The run in this home, or None if there certainly is none.

    Raises RefusedToGoOn for a record that is damaged or of a later format.
    """
    try:
        record = read_sound(storage, RUN, lambda body: _parse(storage, body), damaged=RefusedToGoOn)
    except KeyNotFound:
        return None
    if record.format > FORMAT:
        raise RefusedToGoOn(
            f"{storage.describe()}: this run has format {record.format}, and this dbr reads up to {FORMAT}. Update dbr."
        )
    return record


def _parse(storage: Storage, body: bytes) -> RunRecord:
    # Sealed: one flipped digit in an option, or in the seed, would train something else and look right.
    try:
        return RunRecord.model_validate(unsealed(body))
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise RefusedToGoOn(
            f"{storage.describe()}: {RUN} can't be read ({reason}). Put it back from a copy, or "
            "begin a new run in another folder."
        ) from error


def write_record(storage: Storage, record: RunRecord) -> RunRecord:
    """Create `run.json`; returns what lies there, which is another starter's record if that was first (rule 13)."""
    try:
        storage.put_if_absent(RUN, sealed(json.loads(record.model_dump_json())))
        trouble = None
    except OutcomeUnknown as error:
        trouble = error  # what lies there tells
    stored = read_record(storage)
    if stored is None and trouble is not None:
        raise trouble
    if stored is None:
        raise RefusedToGoOn(f"{storage.describe()}: {RUN} was written and is not there. Something deletes files here.")
    return stored
