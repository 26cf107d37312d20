"""The GPUs of this machine, by their driver's own program: no torch is loaded, and nothing is taken of their memory."""

from __future__ import annotations

import csv
import shutil
import subprocess
from dataclasses import dataclass

_ASKED = ("name", "memory.total", "memory.used", "driver_version")
_PATIENCE_SECONDS = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A GPU as `nvidia-smi` tells of it."""

    name: str
    memory_bytes: int
    used_bytes: int
    driver: str


class DeviceTrouble(Exception):
    """There is a driver's program, and it can't tell of a GPU: its own words."""


def devices_here() -> tuple[Device, ...]:
    """All GPUs; none where there is no driver. Raises DeviceTrouble for a driver that doesn't work."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    words = [program, f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceTrouble(f"nvidia-smi does not answer ({type(error).__name__})") from error
    if done.returncode != 0:
        told = (done.stdout + done.stderr).strip().splitlines()
        raise DeviceTrouble(f"nvidia-smi: {told[0][:200] if told else f'exit code {done.returncode}'}")
    try:
        return tuple(_device(row) for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True) if row)
    except (ValueError, IndexError) as error:
        raise DeviceTrouble(f"nvidia-smi says {done.stdout.strip()[:200]!r}") from error


def _device(row: list[str]) -> Device:
    name, total, used, driver = row
    return Device(name=name, memory_bytes=int(total) * 2**20, used_bytes=int(used) * 2**20, driver=driver)
