"""What process 0 and its hands tell each other: words through a pipe, tensors through memory that both see.

Both are anonymous and end with the processes. Nothing listens on a port, and nothing lies in /dev/shm, which is 64 MiB
in a container.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle

import torch

from dreambooth_resume.errors import BadInput

Parameters = Mapping[str, torch.nn.Parameter]

_FLOAT_BYTES = 4
_PORTABLE = 1  # cudaHostRegisterPortable


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """From a hand: it has loaded the model, which has so many numbers to train."""

    numbers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """To a hand: compute your micro-batches of `step`, with the parameters that stand in row 0.

    `serial` is in the answers. `loss_scale` is what the loss is multiplied by. An order takes the place of the one
    before, which may not be done.
    """

    serial: int
    step: int
    micro_batch_size: int
    loss_scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """From a hand: the gradient of its next micro-batch stands in its row. `loss` None: there was too little memory."""

    serial: int
    loss: float | None
    checksum: int = 0
    """Of the micro-batch's samples."""


@dataclass(frozen=True, slots=True)
class Taken:
    """To a hand: its row has been read, and may be written again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """From a hand: a message for the user."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """From a hand: it ends, with this exit code, for the reason that `text` says."""

    text: str
    exit_code: int


def refuse_other_systems() -> None:
    """Raises BadInput where there is no such memory: anywhere but on Linux."""
    if not hasattr(os, "memfd_create"):
        raise BadInput("several processes need Linux", where="num_processes", fix="--num_processes 1")


class Rows:
    """Rows of float32 numbers in memory that several processes see: the parameters, then a gradient for each hand."""

    def __init__(self, count: int, numbers: int, descriptor: int | None = None) -> None:
        """Make the memory, or open that of `descriptor`, which stays the caller's."""
        size = count * numbers * _FLOAT_BYTES
        self.numbers = numbers
        made = os.memfd_create("dbr") if descriptor is None else None
        self._descriptor = made if made is not None else descriptor
        assert self._descriptor is not None
        if made is not None:
            os.ftruncate(made, size)
        flat = torch.frombuffer(mmap.mmap(self._descriptor, size), dtype=torch.float32)
        if torch.cuda.is_available():
            # Transfers are several times as fast then; if the driver refuses, they are right all the same.
            torch.cuda.cudart().cudaHostRegister(flat.data_ptr(), size, _PORTABLE)  # type: ignore[no-untyped-call]
        self._rows = flat.view(count, numbers)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self._rows[row]

    def send(self, connection: Connection, pid: int) -> None:
        """Let the process at the other end see this memory, by `received`."""
        assert self._descriptor is not None
        connection.send((len(self._rows), self.numbers))
        send_handle(connection, self._descriptor, pid)

    def close(self) -> None:
        """No further process needs to see it; who does keeps it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


def received(connection: Connection, size: tuple[int, int]) -> Rows:
    """The memory that the other end sent behind `size`: how many rows of how many numbers."""
    rows = Rows(*size, recv_handle(connection))
    rows.close()
    return rows


def count_of(parameters: Parameters) -> int:
    """How many numbers these are."""
    return sum(parameter.numel() for parameter in parameters.values())


def write(row: torch.Tensor, values: Sequence[torch.Tensor]) -> None:
    """Put `values` one behind the other into `row`; they are in it when this returns."""
    row.copy_(torch.cat([value.detach().reshape(-1) for value in values]))


def read(row: torch.Tensor, parameters: Parameters) -> dict[str, torch.Tensor]:
    """What `write` put there, on the parameters' device and in their shapes. On a CPU it is the row itself."""
    first = next(iter(parameters.values()))
    pieces = torch.split(row.to(first.device), [parameter.numel() for parameter in parameters.values()])
    shaped = zip(parameters.items(), pieces, strict=True)
    return {name: piece.view(parameter.shape) for (name, parameter), piece in shaped}
