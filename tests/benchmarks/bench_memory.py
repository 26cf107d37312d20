"""Bytes that saving takes beyond the state itself, in a fresh process, while the storage is slower than the saves.

Two states, one twice as large, tell what grows with the state from what does not: connections, threads, the allocator.
Each process prints a JSON line: its state's bytes, and by how much it grew at most.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

WANTED_COPIES = 2.05
WANTED_BUFFERS_BYTES = 64e6
_RANKS = (16, 32)
_SAVES = 24
_EVERY_SECONDS = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grown:
    """`grown_bytes` is the peak of resident memory over that of the process with its state, before its first save."""

    state_bytes: int
    grown_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """What a process grew by, with a state of SDXL's size and with one of twice that."""

    small: _Grown
    large: _Grown

    @property
    def copies(self) -> float:
        """Bytes for each further byte of state."""
        grown, state = (
            getattr(self.large, name) - getattr(self.small, name) for name in ("grown_bytes", "state_bytes")
        )
        return float(grown / state)

    @property
    def buffers_bytes(self) -> float:
        """Bytes beyond two copies of the smaller state."""
        return float(self.small.grown_bytes - 2 * self.small.state_bytes)


def measure_memory() -> MemoryFigures:
    """Run this file in two fresh processes, one after the other."""
    small, large = (_in_a_process(rank) for rank in _RANKS)
    return MemoryFigures(small=small, large=large)


def _in_a_process(rank: int) -> _Grown:
    words = [sys.executable, __file__, str(rank)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return _Grown(**json.loads(done.stdout.splitlines()[-1]))


def _main(rank: int) -> None:
    from distant_s3 import DistantS3
    from sdxl_state import make_manager, sdxl_state

    from dreambooth_resume.storage.s3_address import S3Settings
    from dreambooth_resume.storage.urls import open_storage

    state = sdxl_state(rank)
    with DistantS3() as service:
        manager = make_manager(open_storage(service.new_home(), S3Settings(endpoint_url=service.url)), rank=rank)
        before = _resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # begin the peak anew: loading may have taken more
        for number in range(_SAVES):
            state.global_step = number + 1
            manager.save_in_background(state)
            time.sleep(_EVERY_SECONDS)
        grown = _resident_bytes("VmHWM") - before
        manager.close()
    state_bytes = sum(tensor.nbytes for tensor in state.tensors().values())
    print(json.dumps({"state_bytes": state_bytes, "grown_bytes": grown}))


def _resident_bytes(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    _main(int(sys.argv[1]))
