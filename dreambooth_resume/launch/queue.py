"""One run at a time for each GPU of this machine, or for the machine where it has none; first come, first served.

Built on locks of files, which the kernel takes back from whoever dies. The training inherits the lock on its GPU, so a
supervisor that is killed doesn't let another run onto a GPU that is still in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOOK_SECONDS = 0.5
_DEVICE = re.compile(r"nvidia(\d+)")
MACHINE = "machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """GPUs, or a machine without one: ours until `descriptors` are closed, here and in all who inherited them."""

    name: str
    """Several joined by commas, as CUDA_VISIBLE_DEVICES takes them."""
    descriptors: tuple[int, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What makes a program use these GPUs."""
        return {} if self.name == MACHINE else {"CUDA_VISIBLE_DEVICES": self.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, by both of its names."""

    lock: str
    """Among all of the host: a container may see some of them, and share the folder with the locks."""
    visible: str
    """As CUDA_VISIBLE_DEVICES takes it: CUDA counts what a container sees from 0."""


def gpus_named(*names: str) -> tuple[Gpu, ...]:
    """GPUs that have one name for all."""
    return tuple(Gpu(lock=name, visible=name) for name in names)


def gpus_here(devices: Path = Path("/dev")) -> tuple[Gpu, ...]:
    """The GPUs that may be used. Loads no driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return gpus_named(*(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")))
    with contextlib.suppress(OSError):
        # /dev/nvidia3 alone is the host's fourth, and CUDA's first.
        numbers = sorted(int(match[1]) for path in devices.iterdir() if (match := _DEVICE.fullmatch(path.name)))
        return tuple(Gpu(lock=str(number), visible=str(index)) for index, number in enumerate(numbers))
    return ()


@contextlib.contextmanager
def waiting_turn(
    folder: Path,
    gpus: Sequence[Gpu],
    *,
    told_to_leave: Callable[[], bool],
    tell: Callable[[str], None],
    wanted: int = 1,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Place | None]:
    """A place of our own once everybody is done who came before; None if we were told to leave instead.

    With as many GPUs as are `wanted`, or all that there are if that is fewer.
    """
    gpus_wanted = min(wanted, len(gpus) or 1)
    with _ticket(folder / "queue") as ticket:
        told = False
        while (place := _free_place(folder / "places", gpus, gpus_wanted) if _is_next(ticket) else None) is None:
            if told_to_leave():
                break
            if not told:
                tell("Waiting for its turn: other runs were queued before, and use this machine's "
                     f"{'GPU' if len(gpus) == 1 else 'GPUs' if gpus else 'processor'}.")  # fmt: skip
                told = True
            sleep(_LOOK_SECONDS)
    try:
        yield place
    finally:
        for descriptor in place.descriptors if place is not None else ():
            os.close(descriptor)


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[bool]:
    """True while nobody else on this machine is within the same `path`; False for whoever comes second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _ticket(folder: Path) -> Iterator[Path]:
    """A file whose name says when we came, locked while we wait."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns():020d}-{os.getpid()}"
    drawn = folder / f".{name}"
    descriptor = os.open(drawn, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _lock(descriptor)
        # Locked first and shown then: an unlocked ticket is that of somebody who died.
        drawn.rename(folder / name)
        yield folder / name
    finally:
        (folder / name).unlink(missing_ok=True)
        os.close(descriptor)


def _is_next(ticket: Path) -> bool:
    """Nobody who lives came before. Tickets of the dead are removed."""
    for other in sorted(ticket.parent.iterdir()):
        if other.name.startswith("."):
            continue
        if other.name >= ticket.name:
            return True
        try:
            descriptor = os.open(other, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if not _lock(descriptor):
                return False
            other.unlink(missing_ok=True)
        finally:
            os.close(descriptor)
    return True


def _free_place(folder: Path, gpus: Sequence[Gpu], wanted: int) -> Place | None:
    """All that is wanted or nothing: who is next in the queue waits without holding a part of it."""
    folder.mkdir(parents=True, exist_ok=True)
    held: dict[str, int] = {}
    for gpu in gpus or gpus_named(MACHINE):
        name = re.sub(r"[^\w.-]", "_", gpu.lock)
        descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _lock(descriptor):
            os.close(descriptor)
            continue
        held[gpu.visible] = descriptor
        if len(held) == wanted:
            return Place(name=",".join(held), descriptors=tuple(held.values()))
    for descriptor in held.values():
        os.close(descriptor)
    return None


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
