"""A copy of the training state at a step boundary: all that saving costs the training thread."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from dreambooth_resume.checkpoint.format import SavedState, Scalars
from dreambooth_resume.checkpoint.tensors import are_neighbours

COPIES_KEPT = 2
"""One being saved, one waiting: more are never in use at once."""


class Snapshotable(Protocol):
    """What can be saved: everything that the next step depends on and that isn't a function of the step."""

    global_step: int

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The live tensors under flat names, on any device. Training changes their values, never which they are."""
        ...

    def scalars(self) -> Scalars:
        """The rest, as JSON values."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Tensors of one device and type: they are copied with one call, into one piece of memory."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    sizes: list[int]
    live: tuple[torch.Tensor, ...]
    """The live memory, flat, in the order of the names; neighbours in memory are one piece."""
    live_sizes: list[int]

    def empty(self) -> torch.Tensor:
        return torch.empty(sum(self.sizes), dtype=self.live[0].dtype, device=self.live[0].device)

    def copy_to(self, flat: torch.Tensor) -> None:
        torch._foreach_copy_(torch.split(flat, self.live_sizes), self.live)

    def named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        views = torch.split(flat, self.sizes)
        return {name: view.view(shape) for name, view, shape in zip(self.names, views, self.shapes, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of one step, no longer touched by training; still on the device that it was trained on."""

    step: int
    scalars: Scalars
    groups: tuple[_Group, ...]
    copies: tuple[torch.Tensor, ...]
    """A flat tensor for each group."""
    copied: torch.cuda.Event | None

    def to_saved_state(self) -> SavedState:
        """The snapshot on the CPU. Called on the writer's thread: the transfer overlaps with training."""
        host = self.copies if self.copied is None else self._on_host(self.copied)
        tensors: dict[str, torch.Tensor] = {}
        for group, flat in zip(self.groups, host, strict=True):
            tensors.update(group.named(flat))
        return SavedState(step=self.step, tensors=tensors, scalars=self.scalars)

    def _on_host(self, copied: torch.cuda.Event) -> tuple[torch.Tensor, ...]:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_event(copied)
        with torch.cuda.stream(side):
            host = tuple(
                torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True).copy_(flat, non_blocking=True)
                if flat.is_cuda
                else flat
                for flat in self.copies
            )
        side.synchronize()
        return host


class Snapshotter:
    """Takes snapshots of one state, into memory that is used again and again: fresh pages cost more than the copy."""

    def __init__(self, state: Snapshotable) -> None:
        self._state = state
        grouped: dict[tuple[torch.device, torch.dtype], dict[str, torch.Tensor]] = defaultdict(dict)
        for name, tensor in state.tensors().items():
            grouped[tensor.device, tensor.dtype][name] = tensor.detach()
        self._groups = tuple(_group(tensors) for tensors in grouped.values())
        self._is_on_gpu = any(device.type == "cuda" for device, _ in grouped)
        self._free: list[tuple[torch.Tensor, ...]] = []
        self._lock = threading.Lock()

    @torch.no_grad()
    def take(self) -> Snapshot:
        """Copy every tensor where it lies, with one fused copy for each type, and return at once."""
        with self._lock:
            copies = self._free.pop() if self._free else tuple(group.empty() for group in self._groups)
        for group, flat in zip(self._groups, copies, strict=True):
            group.copy_to(flat)
        copied: torch.cuda.Event | None = None
        if self._is_on_gpu:
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        return Snapshot(
            step=self._state.global_step,
            scalars=self._state.scalars(),
            groups=self._groups,
            copies=copies,
            copied=copied,
        )

    def give_back(self, snapshot: Snapshot) -> None:
        """Nobody reads `snapshot` any more: its memory may be written over."""
        with self._lock:
            if len(self._free) < COPIES_KEPT:
                self._free.append(snapshot.copies)


def _group(tensors: Mapping[str, torch.Tensor]) -> _Group:
    # `view` and not `reshape`: a copy here would be snapshotted for ever in place of the live tensor.
    flat = [tensor.view(-1) for tensor in tensors.values()]
    live: list[torch.Tensor] = []
    for piece in flat:
        if live and are_neighbours(live[-1], piece):
            live[-1] = torch.as_strided(live[-1], (live[-1].numel() + piece.numel(),), (1,))
        else:
            live.append(piece)
    return _Group(
        names=tuple(tensors),
        shapes=tuple(tensor.shape for tensor in tensors.values()),
        sizes=[piece.numel() for piece in flat],
        live=tuple(live),
        live_sizes=[piece.numel() for piece in live],
    )
