"""A copy of the training state at a step boundary: all that saving costs the training thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from dreambooth_resume.checkpoint.format import SavedState, Scalars


class Snapshotable(Protocol):
    """What can be saved: everything that the next step depends on and that isn't a function of the step."""

    global_step: int

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The live tensors under flat names, on any device. They change with the next step."""
        ...

    def scalars(self) -> Scalars:
        """The rest, as JSON values."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of one step, no longer touched by training; still on the device that it was trained on."""

    step: int
    tensors: Mapping[str, torch.Tensor]
    scalars: Scalars
    copied: torch.cuda.Event | None

    def to_saved_state(self) -> SavedState:
        """The snapshot on the CPU. Called on the writer's thread: the transfer overlaps with training."""
        if self.copied is None:
            return SavedState(step=self.step, tensors=self.tensors, scalars=self.scalars)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_event(self.copied)
        with torch.cuda.stream(side):
            host = {
                name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
                if tensor.is_cuda
                else tensor
                for name, tensor in self.tensors.items()
            }
        side.synchronize()
        return SavedState(step=self.step, tensors=host, scalars=self.scalars)


@torch.no_grad()
def take_snapshot(state: Snapshotable) -> Snapshot:
    """Copy every tensor where it lies, with one fused copy, and return at once."""
    live = {name: tensor.detach() for name, tensor in state.tensors().items()}
    copies = {name: torch.empty_like(tensor, memory_format=torch.contiguous_format) for name, tensor in live.items()}
    torch._foreach_copy_(list(copies.values()), list(live.values()))
    copied: torch.cuda.Event | None = None
    if any(tensor.is_cuda for tensor in live.values()):
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
    return Snapshot(step=state.global_step, tensors=copies, scalars=state.scalars(), copied=copied)
