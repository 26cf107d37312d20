"""The files of a checkpoint, from a snapshot to blobs and back.

`trainer_state.json` closes the folder: it names the digests of the tensor files and its own, so that a folder whose log
entry never landed can still be judged. It holds nothing of the attempt or the day: the same step has the same bytes.

A tensor that the exported weights hold as it is, bit for bit, is stored there alone: an adapter's float32 masters are a
third of a state. `trainer_state.safetensors` says in its header which those are. Until format 1 it held them too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from dreambooth_resume.checkpoint.tensors import Blob, deserialise, metadata_of, serialise
from dreambooth_resume.errors import CheckpointDamaged
from dreambooth_resume.runs.home import STATE_NAME, STATE_TENSORS_NAME, WEIGHTS_NAME
from dreambooth_resume.storage.base import Body

Scalars = dict[str, float | int | str | None]
ExportWeights = Callable[[Mapping[str, torch.Tensor]], tuple[Mapping[str, torch.Tensor], Mapping[str, str]]]
"""From a state's tensors to the tensors and the header metadata of the LoRA file that users load."""


@dataclass(slots=True, eq=False)
class Place:
    """Memory in which states come to lie one after the other, each tensor where its forerunner lay.

    So their files have the same names, headers and pieces of memory, and these are worked out once: for a state of
    SDXL's size that takes the interpreter's lock for 45 ms, which the training thread would wait for at every save.
    """

    parts: Mapping[str, tuple[Body, ...]] | None = None
    """Of each file that holds tensors; None before the first save."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """A training state apart from the machine: tensors on the CPU and scalars, both under flat names."""

    step: int
    tensors: Mapping[str, torch.Tensor]
    scalars: Scalars
    place: Place | None = None
    """Where the tensors lie, if others lay there before or will. One `ExportWeights` is used for all of them."""


_IN_WEIGHTS = "in_weights"
"""The header's entry that says so: JSON, the state's name of a tensor to its name among the weights."""


def to_blobs(state: SavedState, export_weights: ExportWeights) -> dict[str, Blob]:
    """File name to content, in the order in which they are to be written."""
    blobs = tensor_blobs(state, export_weights)
    return {**blobs, STATE_NAME: closing_blob(state, blobs)}


def tensor_blobs(state: SavedState, export_weights: ExportWeights) -> dict[str, Blob]:
    """The files that hold tensors. None is hashed yet: that can be done while they are sent."""
    place = state.place
    if place is not None and place.parts is not None:
        return {name: Blob(parts) for name, parts in place.parts.items()}
    weights, metadata = export_weights(state.tensors)
    in_weights = _in_weights(state.tensors, weights)
    rest = {name: tensor for name, tensor in state.tensors.items() if name not in in_weights}
    said = {_IN_WEIGHTS: json.dumps(in_weights, sort_keys=True, separators=(",", ":"))} if in_weights else {}
    blobs = {WEIGHTS_NAME: serialise(weights, metadata), STATE_TENSORS_NAME: serialise(rest, {"format": "pt", **said})}
    # What was computed of the state for its file, or copied to be in one piece, is that of this step alone.
    is_all_in_place = len(in_weights) == len(weights) and all(one.is_contiguous() for one in state.tensors.values())
    if place is not None and is_all_in_place:
        place.parts = {name: blob.parts for name, blob in blobs.items()}
    return blobs


def closing_blob(state: SavedState, blobs: Mapping[str, Blob]) -> Blob:
    """The file that closes the folder. Waits until the others are hashed."""
    facts = {
        "step": state.step,
        "scalars": state.scalars,
        "files": {name: {"sha256": blob.sha256, "size_bytes": blob.size_bytes} for name, blob in blobs.items()},
    }
    return Blob([_canonical({**facts, "sha256": _digest(facts)})])


def from_bodies(bodies: Mapping[str, bytes]) -> SavedState:
    """The state that `to_blobs` wrote. Raises CheckpointDamaged with the reason if the files don't belong together."""
    try:
        facts = json.loads(bodies[STATE_NAME])
        claimed = facts.pop("sha256")
        if claimed != _digest(facts):
            raise CheckpointDamaged(f"{STATE_NAME} was changed after it was written")
        for name, expected in facts["files"].items():
            body = bodies[name]
            if len(body) != expected["size_bytes"]:
                raise CheckpointDamaged(f"{name} has {len(body)} of {expected['size_bytes']} bytes")
            if hashlib.sha256(body).hexdigest() != expected["sha256"]:
                raise CheckpointDamaged(f"{name} is not what was written (SHA-256 differs)")
        tensors = deserialise(bodies[STATE_TENSORS_NAME])
        if in_weights := json.loads(metadata_of(bodies[STATE_TENSORS_NAME]).get(_IN_WEIGHTS, "{}")):
            weights = deserialise(bodies[WEIGHTS_NAME])
            tensors.update((name, weights[exported]) for name, exported in in_weights.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointDamaged(f"{STATE_NAME} or {STATE_TENSORS_NAME} can't be read: {error!r}") from error
    return SavedState(step=facts["step"], tensors=tensors, scalars=facts["scalars"])


def _in_weights(tensors: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Which of `tensors` are among the exported ones: the very same memory, not something made of it."""
    exported = {_place(tensor): name for name, tensor in sorted(weights.items())}
    found = ((name, exported.get(_place(tensor))) for name, tensor in tensors.items() if tensor.numel())
    return {name: known for name, known in found if known is not None}


def _place(tensor: torch.Tensor) -> tuple[int, torch.dtype, torch.Size, tuple[int, ...]]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _digest(facts: Mapping[str, object]) -> str:
    return hashlib.sha256(_canonical(facts)).hexdigest()


def _canonical(facts: Mapping[str, object]) -> bytes:
    return json.dumps(facts, sort_keys=True, indent=1, allow_nan=True).encode()
