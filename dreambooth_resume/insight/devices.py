"""The GPUs of this machine, by their driver's own program: no torch is loaded, and nothing is taken of their memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace

_ASKED = ("name", "memory.total", "memory.used", "driver_version", "uuid")
_PATIENCE_SECONDS = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU as `nvidia-smi` tells of it; None: it tells no number, as of memory that is the machine's own."""

    name: str
    memory_bytes: int | None
    used_bytes: int | None
    driver: str
    uuid: str = ""


class DeviceTrouble(Exception):
    """There is a driver's program, and it can't tell of a GPU: its own words."""


class DevicesUnknown(DeviceTrouble):
    """The driver's program did not answer in time: that says nothing of the GPU."""


def devices_here() -> tuple[Device, ...]:
    """The GPUs that a program started here sees, the one to judge first; none where there is no driver.

    That is the first of CUDA_VISIBLE_DEVICES, and without that the largest. Raises DeviceTrouble for a driver that
    doesn't work.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    words = [program, f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise DevicesUnknown(f"nvidia-smi has not answered within {_PATIENCE_SECONDS:.0f} s") from None
    except OSError as error:
        raise DeviceTrouble(f"nvidia-smi does not answer ({type(error).__name__})") from error
    if done.returncode != 0:
        told = (done.stdout + done.stderr).strip().splitlines()
        raise DeviceTrouble(f"nvidia-smi: {told[0][:200] if told else f'exit code {done.returncode}'}")
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    # A line with fewer is no GPU but something that the program says beside them.
    devices = [_device(row) for row in rows if len(row) >= len(_ASKED) - 1]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible(devices, chosen) if chosen is not None else tuple(sorted(devices, key=_largest_first))


def visible(devices: Sequence[Device], chosen: str) -> tuple[Device, ...]:
    """Those that CUDA_VISIBLE_DEVICES names, by number or UUID, in its order. As in CUDA the first unknown one ends it.

    Source: CUDA C++ Programming Guide, CUDA environment variables. Of a part of a GPU (MIG) the memory is not known.
    """
    found: list[Device] = []
    for word in (part.strip() for part in chosen.split(",")):
        if word.startswith("MIG-") and devices:
            fitting = [replace(devices[0], memory_bytes=None, used_bytes=None)]
        elif word.isdecimal():
            fitting = list(devices[int(word) : int(word) + 1])
        else:
            fitting = [device for device in devices if word and device.uuid.startswith(word)]
        if not fitting:
            break
        found.append(fitting[0])
    return tuple(found)


def _device(row: Sequence[str]) -> Device:
    name, total, used, driver, uuid = [*row, ""][: len(_ASKED)]
    return Device(name=name, memory_bytes=_mebibytes(total), used_bytes=_mebibytes(used), driver=driver, uuid=uuid)


def _mebibytes(text: str) -> int | None:
    """In bytes; None for "[N/A]", "[Insufficient Permissions]" and their like."""
    return int(text) * 2**20 if text.isdecimal() else None


def _largest_first(device: Device) -> int:
    return -(device.memory_bytes or 0)
