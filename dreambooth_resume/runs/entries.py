"""The commit log's entries as they lie on disk. A home of any earlier format is read by every later release."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue


class Record(BaseModel):
    """A value written once and never changed. Names that a later release adds are passed over when read."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=True, ser_json_inf_nan="constants")


class StoredFile(Record):
    """A data file of a checkpoint with what was meant to be written."""

    key: str
    size_bytes: int
    sha256: str


class LiveCheckpoint(Record):
    """A checkpoint that is live: committed, not retired, not set aside. Its own entry, `number`, names its files."""

    number: int
    step: int
    attempt: int
    folder: str


class CheckpointRef(LiveCheckpoint):
    """A checkpoint with its files, as its entry has them."""

    files: tuple[StoredFile, ...]

    def file_named(self, name: str) -> StoredFile:
        """The file of that name in the checkpoint's folder. Raises KeyError if there is none."""
        files = {file.key.rpartition("/")[2]: file for file in self.files}
        return files[name]

    def without_files(self) -> LiveCheckpoint:
        """What every later entry repeats: with the files, a log of a thousand checkpoints would fill the disk."""
        return LiveCheckpoint(number=self.number, step=self.step, attempt=self.attempt, folder=self.folder)


class SetAside(Record):
    """A committed checkpoint that was found damaged. Never deleted, never loaded."""

    number: int
    folder: str
    reason: str


class Process(Record):
    """One process on one machine: enough to tell, on the same boot, whether it is no more."""

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: str


class Price(Record):
    """What an hour of a machine costs, in US dollars."""

    per_hour: float
    on_demand_per_hour: float | None = None
    """What the same hour costs where nobody may take the machine away; None: not known."""


class PlatformJob(Record):
    """The job of a platform that an attempt ran in."""

    name: str
    """As the platform's own programs call it: `Slurm job 4711`."""
    restarts: int = 0
    """How often the platform had started that job before."""


class Totals(Record):
    """What the run took so far, over all attempts: optimizer updates made, those made again, seconds of training."""

    steps: int = 0
    redone_steps: int = 0
    training_seconds: float = 0.0
    machine_seconds: float = 0.0
    """From each attempt's start: what machines are paid for. 0 in entries of releases that didn't count it."""
    cost: float = 0.0
    """In US dollars, of the hours whose price was known."""


class AttemptRef(Record):
    """A link of the lineage: an attempt and the checkpoint that it started from (None: from step 0)."""

    attempt: int
    base: int | None
    base_step: int


class Segment(Record):
    """From `from_step` on a run trains on other pictures than before, on purpose. Before the first: `run.json`'s."""

    from_step: int
    fingerprint: str
    """Of the pictures and prompts, as in `run.json`."""
    prompt: str
    """The prompt of those pictures that have none of their own."""


class SkippedSteps(Record):
    """Steps `first` to `last`, counted from 0, train on other samples since a guard has gone back over them."""

    number: int
    """The how many-th time in this run, from 1. It decides which samples these steps get instead."""
    first: int
    last: int
    why: str

    @property
    def request_id(self) -> str:
        return f"guard-{self.number}-step-{self.last + 1}"


class SmallerMicroBatch(Record):
    """A device ran out of memory: since then so many samples are computed at once at most."""

    size: int
    from_step: int
    """The step, counted from 0, that was the first to be computed so."""
    attempt: int
    """0: one of the run that this one began from."""
    device_memory_bytes: int | None
    """A device with more memory may compute more at once. None: not known."""

    @property
    def who(self) -> str:
        return f"attempt {self.attempt}" if self.attempt else "the run that this one began from"


class RunState(Record):
    """What the newest entry alone tells about a run."""

    step: int
    max_train_steps: int
    live: tuple[LiveCheckpoint, ...]
    lineage: tuple[AttemptRef, ...]
    totals: Totals
    changed_options: dict[str, JsonValue] = {}
    """Options that were changed since `run.json` was written, with the values that hold now."""
    segments: tuple[Segment, ...] = ()
    """Data sets that took the place of the one before, by their first steps."""
    skipped: tuple[SkippedSteps, ...] = ()
    """Where samples were skipped because they led to a number that wasn't finite."""
    smaller_micro_batch: SmallerMicroBatch | None = None


class ChangedOption(Record):
    """An option that an attempt was given otherwise than the run had it, and went on with."""

    name: str
    before: JsonValue
    after: JsonValue
    policy: str
    """`free`, `applied` or `refused`, as the option declared it then."""
    allowed: bool = False
    """It is refused, and --allow_change named it."""
    changes_the_result: bool = True


class Adopt(Record):
    """An attempt takes the run over and goes on from `base` (a checkpoint entry's number, None: from step 0)."""

    kind: Literal["adopt"] = "adopt"
    base: int | None
    process: Process
    set_aside: tuple[SetAside, ...] = ()
    going_back: str | None = None
    """The request id of a return to an earlier checkpoint: the same request is carried out once."""
    rolled_back: SkippedSteps | None = None
    """A guard's return: what went wrong, and which steps train on other samples from now on."""
    reopened: bool = False
    """The run was finished, and `max_train_steps` was raised."""
    not_exact_because: tuple[str, ...] = ()
    """What of the numerics is not as at the run's start; empty: this attempt computes the very same bits."""
    price: Price | None = None
    """Of this attempt's machine; None: not known."""
    job: PlatformJob | None = None
    """What the attempt's process ran in; None where no platform says so."""
    launch: str | None = None
    """The number of the launch whose supervisor started it; None: started by hand, or by an earlier release."""
    changes: tuple[ChangedOption, ...] = ()
    """Options that hold otherwise from here on; `state.changed_options` repeats the values for later entries."""


class Commit(Record):
    """A checkpoint exists."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    folder: str
    files: tuple[StoredFile, ...]
    reason: str
    retire: tuple[int, ...] = ()
    """Numbers of the checkpoints that are retired from the moment this entry exists."""


class Stopped(Record):
    """The attempt ended on its own accord: the next one need not wait for it."""

    kind: Literal["stopped"] = "stopped"
    reason: str
    exit_code: int
    retire: tuple[int, ...] = ()


class Finished(Record):
    """The run is done, and its result is what `checkpoint` (an entry's number) holds. Nobody adopts behind it."""

    kind: Literal["finished"] = "finished"
    checkpoint: int


EntryBody = Annotated[Adopt | Commit | Stopped | Finished, Field(discriminator="kind")]


class Entry(Record):
    """One entry: who wrote it as which number, what it says, and the run's state after it."""

    format: Literal[1, 2] = 2
    """2: a checkpoint's `trainer_state.safetensors` need not hold what its weights file holds (docs/home-format.md)."""
    number: int
    attempt: int
    nonce: str
    written_at: str
    """ISO 8601, UTC. For people; nothing is ever decided by it."""
    body: EntryBody
    state: RunState


def encode_entry(entry: Entry) -> bytes:
    """The entry as it lies on disk: JSON, sealed with the SHA-256 of the rest."""
    return sealed(json.loads(entry.model_dump_json()))


def sealed(facts: dict[str, JsonValue]) -> bytes:
    """JSON that holds its own digest, over all names, those of a later release included."""
    return json.dumps({**facts, "sha256": _seal(facts)}, indent=1).encode()


def decode_entry(body: bytes) -> Entry:
    """The entry that `encode_entry` wrote. Raises ValueError for anything else, be it one flipped digit."""
    return Entry.model_validate(unsealed(body))


def unsealed(body: bytes) -> dict[str, JsonValue]:
    """What `sealed` was given. Raises ValueError for anything that it didn't write."""
    facts = json.loads(body)
    if not isinstance(facts, dict):
        raise ValueError("no JSON object")
    if facts.pop("sha256", None) != _seal(facts):
        raise ValueError("changed after it was written")
    return facts


def _seal(facts: dict[str, JsonValue]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
