"""Two runs of the same steps, compared: checkpoint files by their SHA-256, what steps measured, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dreambooth_resume.insight.differences import (
    StepDifference,
    compared_steps,
    first_difference,
    greatest_difference,
)
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.curves import CurvePoint, read_curve
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.storage.base import Storage

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SameFile:
    """One file of the same checkpoint in both runs, as it lies there."""

    name: str
    size_bytes: int
    first_sha256: str
    second_sha256: str

    @property
    def is_same(self) -> bool:
        return self.first_sha256 == self.second_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherTensor:
    """A tensor of the state that isn't the same in both. `largest` is the greatest difference of two of its numbers."""

    name: str
    numbers: int
    differing: int
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sameness:
    """What the comparison of two runs found. `tensors` are the first that differ, of `tensors_differing`."""

    step: int
    """Of the checkpoint whose files were compared."""
    files: tuple[SameFile, ...]
    steps_compared: int
    difference: StepDifference | None
    greatest_loss_difference: float
    tensors: tuple[OtherTensor, ...] = ()
    tensors_differing: int = 0
    tensors_in_all: int = 0

    @property
    def is_exact(self) -> bool:
        return all(file.is_same for file in self.files) and self.difference is None


def compare_runs(first: Storage, second: Storage, *, step: int, named_tensors: int = 5) -> Sameness:
    """Compare the checkpoints of `step` and all steps up to it. Tensors are read only where the files differ.

    Raises KeyError if one of the two has no such checkpoint.
    """
    refs = [_checkpoint(storage, step) for storage in (first, second)]
    curves = [[point for point in read_curve(one).points if point.step <= step] for one in (first, second)]
    files = _files(first, refs[0], second, refs[1])
    tensors: tuple[OtherTensor, ...] = ()
    counted = (0, 0)
    if not all(file.is_same for file in files):
        tensors, counted = _tensors(first, refs[0], second, refs[1], named=named_tensors)
    return Sameness(
        step=step,
        files=files,
        steps_compared=compared_steps(*curves),
        difference=_difference(second, curves[0], curves[1]),
        greatest_loss_difference=greatest_difference(*curves),
        tensors=tensors,
        tensors_differing=counted[0],
        tensors_in_all=counted[1],
    )


def _checkpoint(storage: Storage, step: int) -> CheckpointRef:
    log = read_log(storage)
    found = [number for number in log.usable_line() if log.commit(number).step == step]
    if not found:
        raise KeyError(step)
    return ref_of(log, found[-1])


def _difference(resumed: Storage, before: list[CurvePoint], after: list[CurvePoint]) -> StepDifference | None:
    """The first difference, seen from the checkpoint that the attempt which trained that step had begun from."""
    found = first_difference(before, after, base_step=-1)
    if found is None:
        return None
    trained_by = next(point.attempt for point in after if point.step == found.step)
    span = next((one for one in read_curve(resumed).spans if one.attempt == trained_by), None)
    return first_difference(before, after, base_step=span.base_step if span else -1)


def _files(first: Storage, one: CheckpointRef, second: Storage, other: CheckpointRef) -> tuple[SameFile, ...]:
    keys = [{file.key.rpartition("/")[2]: file.key for file in ref.files} for ref in (one, other)]
    found: list[SameFile] = []
    for name in sorted(keys[0].keys() | keys[1].keys()):
        digests = [
            storage.digest(named[name]) if name in named else None
            for storage, named in zip((first, second), keys, strict=True)
        ]
        found.append(
            SameFile(
                name=name,
                size_bytes=max(digest.size_bytes for digest in digests if digest),
                first_sha256=digests[0].sha256 if digests[0] else "",
                second_sha256=digests[1].sha256 if digests[1] else "",
            )
        )
    return tuple(found)


def _tensors(
    first: Storage, one: CheckpointRef, second: Storage, other: CheckpointRef, *, named: int
) -> tuple[tuple[OtherTensor, ...], tuple[int, int]]:
    """The first tensors that differ by their names; how many differ, of how many."""
    from dreambooth_resume.checkpoint.reader import load_checkpoint

    states = (load_checkpoint(first, one).tensors, load_checkpoint(second, other).tensors)
    names = sorted(states[0].keys() | states[1].keys())
    differing = [found for name in names if (found := other_tensor(name, *states)) is not None]
    return tuple(differing[:named]), (len(differing), len(names))


def other_tensor(name: str, then: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> OtherTensor | None:
    """What differs of the tensor `name`, bit by bit; None if nothing does."""
    was, is_now = then.get(name), now.get(name)
    if was is None or is_now is None or (was.shape, was.dtype) != (is_now.shape, is_now.dtype):
        numbers = max(0 if one is None else one.numel() for one in (was, is_now))
        return OtherTensor(name=name, numbers=numbers, differing=numbers, largest=float("inf"))
    pair = [one.detach().to("cpu").contiguous().reshape(-1) for one in (was, is_now)]
    if np.array_equal(_words(pair[0]), _words(pair[1])):
        return None
    apart = (pair[0].double() - pair[1].double()).abs()
    return OtherTensor(
        name=name,
        numbers=was.numel(),
        differing=int((apart != 0).sum()),
        largest=float(apart.max()) if len(apart) else 0.0,
    )


def _words(flat: Tensor) -> NDArray[np.generic]:
    """The bits of a flat tensor, in words of 4 bytes where they fit.

    NumPy and not torch compares them: torch's threads would wait for each other at each of thousands of small tensors,
    which on a busy machine took a minute for a state of 557 MB, in place of a second (measured).
    """
    import torch

    found: NDArray[np.uint8] = flat.view(torch.uint8).numpy()
    return found.view(np.uint32) if len(found) % 4 == 0 else found
