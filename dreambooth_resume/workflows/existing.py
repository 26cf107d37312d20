"""The LoRA file that a run begins from (--network_weights), in the home from before its `run.json`.

Kill anywhere: the file lies under its own digest before `run.json` names it, so whatever machine comes next has it. One
that no `run.json` names is the same file again for the next start.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.inputs import input_key
from dreambooth_resume.errors import BadInput, KeyNotFound, RefusedToGoOn
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.reread import read_sound
from dreambooth_resume.workflows.home import Home

_FLAG = "--network_weights"


@dataclass(frozen=True)
class StartingWeights:
    """The file, and where it was given."""

    body: bytes
    where: str

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


def find_weights(home: Home, options: TrainOptions) -> StartingWeights | None:
    """The file that the run begins from, or began from. Raises BadInput for one that can't be read, or is another."""
    chosen = options.lora.network_weights
    pinned = home.record.pins.network_weights if home.record else None
    given = None if chosen is None else Path(chosen).expanduser()
    where = f"{_FLAG} {chosen}"
    if home.record is None:
        return None if given is None else StartingWeights(body=_read(given, where), where=where)
    if pinned is None:
        if given is not None:
            raise BadInput("the run did not begin from a LoRA", where=where, fix="leave it out, or start a new run")
        return None
    if given is not None and given.is_file() and hashlib.sha256(given.read_bytes()).hexdigest() != pinned:
        raise BadInput(
            "is not the file that the run was begun from", where=where, fix="leave it out, or start a new run with it"
        )
    return StartingWeights(body=stored_weights(home.storage, pinned), where=where)


def weights_again(chosen: str | None, pinned: str) -> StartingWeights:
    """The file that a run began from, for a home that is to have its copy. Raises BadInput for none, or another."""
    where = f"{_FLAG} {chosen}"
    if chosen is None:
        raise BadInput(
            "the run began from a LoRA, which is not here", where=_FLAG, fix=f"give it again: {_FLAG} FILE.safetensors"
        )
    found = StartingWeights(body=_read(Path(chosen).expanduser(), where), where=where)
    if found.sha256 != pinned:
        raise BadInput("is not the file that the run was begun from", where=where, fix="give that one")
    return found


def store_weights(storage: Storage, weights: StartingWeights) -> None:
    """Copy the file into the home, where it isn't there already."""
    key = input_key(weights.sha256)
    if not storage.put_if_absent(key, weights.body) and storage.digest(key).sha256 != weights.sha256:
        storage.delete(key)
        storage.put_if_absent(key, weights.body)


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"can't be read: {error.strerror}", where=where, fix="give the path of a LoRA's .safetensors file"
        ) from None


def stored_weights(storage: Storage, sha256: str) -> bytes:
    """The file in the home. Raises RefusedToGoOn if it is missing or damaged."""

    def checked(body: bytes) -> bytes:
        if hashlib.sha256(body).hexdigest() != sha256:
            raise RefusedToGoOn(
                f"{storage.describe()}: {input_key(sha256)}, the LoRA that the run began from, is damaged"
            )
        return body

    try:
        return read_sound(storage, input_key(sha256), checked, damaged=RefusedToGoOn)
    except KeyNotFound:
        raise RefusedToGoOn(
            f"{storage.describe()} lacks the LoRA that the run began from. Copy it to {input_key(sha256)} there."
        ) from None
