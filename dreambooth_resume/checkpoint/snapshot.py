"""A copy of the training state at a step boundary: all that saving costs the training thread.

Only an update changes the state. So the copy is made on a thread of its own while the next step's forward and backward
passes go on, and the update waits for it if it has to: `wait_until_copied` (the two phases of CheckFreq, FAST'21). On a
GPU the copy is the device's, and its stream keeps the order: nobody waits.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from dreambooth_resume.checkpoint.format import Place, SavedState, Scalars
from dreambooth_resume.checkpoint.tensors import are_neighbours

COPIES_KEPT = 2
"""One being saved, one waiting: more are never in use at once."""

Bytes = NDArray[np.uint8]
CopyBytes = Callable[[Bytes, Bytes], None]
"""(to, from), of one size. The default lets go of the interpreter's lock, and starts no threads as torch's copy may."""


class Snapshotable(Protocol):
    """What can be saved: everything that the next step depends on and that isn't a function of the step.

    Whoever changes it after a save calls `CheckpointManager.wait_until_copied` first.
    """

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

    @property
    def is_on_gpu(self) -> bool:
        return self.live[0].is_cuda

    def copy_on_device(self, flat: torch.Tensor) -> None:
        torch._foreach_copy_(torch.split(flat, self.live_sizes), self.live)

    def named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        views = torch.split(flat, self.sizes)
        return {name: view.view(shape) for name, view, shape in zip(self.names, views, self.shapes, strict=True)}


@dataclass(slots=True, kw_only=True, eq=False)
class _Memory:
    """Room for one snapshot, made once and written over again and again: fresh pages cost more than the copy."""

    flat: tuple[torch.Tensor, ...]
    """A tensor for each group, on its device."""
    on_cpu: tuple[tuple[Bytes, Bytes], ...]
    """(here, live) of every piece that the CPU copies."""
    on_host: tuple[torch.Tensor, ...] = ()
    """`flat`, or what of it is on a GPU in pinned memory; made at the first save from here."""
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Views of `on_host` under their names."""
    place: Place = field(default_factory=Place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of one step, once `copying` and `copied` are over; still on the device that it was trained on."""

    step: int
    scalars: Scalars
    groups: tuple[_Group, ...]
    memory: _Memory
    copying: Future[None] | None
    copied: torch.cuda.Event | None

    def to_saved_state(self) -> SavedState:
        """The snapshot on the CPU. Called on the writer's thread: the transfer overlaps with training."""
        if self.copying is not None:
            self.copying.result()
        memory = self.memory
        if not memory.tensors:
            memory.on_host = tuple(_host_of(flat) for flat in memory.flat)
            named = (group.named(host) for group, host in zip(self.groups, memory.on_host, strict=True))
            memory.tensors = {name: view for views in named for name, view in views.items()}
        if self.copied is not None:
            self._to_host(self.copied)
        return SavedState(step=self.step, tensors=memory.tensors, scalars=self.scalars, place=memory.place)

    def _to_host(self, copied: torch.cuda.Event) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_event(copied)
        with torch.cuda.stream(side):
            for flat, host in zip(self.memory.flat, self.memory.on_host, strict=True):
                if flat.is_cuda:
                    host.copy_(flat, non_blocking=True)
        side.synchronize()


class Snapshotter:
    """Takes snapshots of one state, one copy at a time."""

    def __init__(self, state: Snapshotable, *, copy_bytes: CopyBytes = np.copyto) -> None:
        self._state = state
        self._copy_bytes = copy_bytes
        grouped: dict[tuple[torch.device, torch.dtype], dict[str, torch.Tensor]] = defaultdict(dict)
        for name, tensor in state.tensors().items():
            grouped[tensor.device, tensor.dtype][name] = tensor.detach()
        self._groups = tuple(_group(tensors) for tensors in grouped.values())
        # Ends with this object, or with the process, which waits for it: milliseconds.
        self._copier = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dbr-copy")
        self._copying: Future[None] | None = None
        self._counted = [piece for group in self._groups if not group.is_on_gpu for piece in group.live]
        self._free: list[_Memory] = []
        self._lock = threading.Lock()

    @torch.no_grad()
    def take(self) -> Snapshot:
        """Begin to copy every tensor where it lies, and return at once."""
        # What was given back may be the memory that the last copy is still written to.
        self.wait_until_copied()
        with self._lock:
            memory = self._free.pop() if self._free else self._new_memory()
        copied: torch.cuda.Event | None = None
        for group, flat in zip(self._groups, memory.flat, strict=True):
            if group.is_on_gpu:
                group.copy_on_device(flat)
                copied = copied or torch.cuda.Event()  # type: ignore[no-untyped-call]
        if copied is not None:
            copied.record()
        self._copying = self._copier.submit(self._copy, memory, self._versions()) if memory.on_cpu else None
        return Snapshot(
            step=self._state.global_step,
            scalars=self._state.scalars(),
            groups=self._groups,
            memory=memory,
            copying=self._copying,
            copied=copied,
        )

    def wait_until_copied(self) -> None:
        """Return once the state may change again. Raises what prevented the copy."""
        if self._copying is not None:
            self._copying.result()

    def end(self) -> None:
        """Return once nobody reads the state any more, whatever came of it."""
        if self._copying is not None:
            self._copying.exception()

    def give_back(self, snapshot: Snapshot) -> None:
        """Nobody reads `snapshot` any more: its memory may be written over."""
        with self._lock:
            if len(self._free) < COPIES_KEPT:
                self._free.append(snapshot.memory)

    def _new_memory(self) -> _Memory:
        flat = tuple(group.empty() for group in self._groups)
        on_cpu = [
            (_bytes_of(to), _bytes_of(live))
            for group, to_all in zip(self._groups, flat, strict=True)
            if not group.is_on_gpu
            for to, live in zip(torch.split(to_all, group.live_sizes), group.live, strict=True)
        ]
        return _Memory(flat=flat, on_cpu=tuple(on_cpu))

    def _versions(self) -> list[int]:
        """Torch counts here how often each piece was changed in place (of a fused AdamW, the step counters alone)."""
        return [piece._version for piece in self._counted]

    def _copy(self, memory: _Memory, versions: list[int]) -> None:
        for to, live in memory.on_cpu:
            self._copy_bytes(to, live)
        if self._versions() != versions:
            # Rather no checkpoint than one of two steps: it would load, and go on to train something else.
            raise RuntimeError("the state was changed while it was copied: call wait_until_copied() before that")


def _host_of(flat: torch.Tensor) -> torch.Tensor:
    return torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True) if flat.is_cuda else flat


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


def _bytes_of(piece: torch.Tensor) -> Bytes:
    found: Bytes = piece.view(torch.uint8).numpy()
    return found
