"""Bytes that saving takes beyond the state itself, in a fresh process, while the storage is slower than the saves.

Prints a JSON line: the state's bytes, and by how much the process grew at most.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

WANTED_COPIES = 2.0
_SAVES = 24
_EVERY_SECONDS = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """`grown_bytes` is the peak of resident memory over that of the process with its state, before its first save."""

    state_bytes: int
    grown_bytes: int
    commits: int

    @property
    def copies(self) -> float:
        return self.grown_bytes / self.state_bytes


def measure_memory() -> MemoryFigures:
    """Run this file in a fresh process."""
    done = subprocess.run([sys.executable, __file__], stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return MemoryFigures(**json.loads(done.stdout.splitlines()[-1]))


def _main() -> None:
    from distant_s3 import DistantS3
    from sdxl_state import make_manager, sdxl_state

    from dreambooth_resume.storage.s3_address import S3Settings
    from dreambooth_resume.storage.urls import open_storage

    state = sdxl_state()
    with DistantS3() as service:
        manager = make_manager(open_storage(service.new_home(), S3Settings(endpoint_url=service.url)))
        before = _resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # begin the peak anew: loading may have taken more
        commits, seen = 0, None
        for number in range(_SAVES):
            state.global_step = number + 1
            manager.save_in_background(state)
            time.sleep(_EVERY_SECONDS)
            if manager.durable_step != seen:
                commits, seen = commits + 1, manager.durable_step
        grown = _resident_bytes("VmHWM") - before
        manager.close()
    state_bytes = sum(tensor.nbytes for tensor in state.tensors().values())
    print(json.dumps({"state_bytes": state_bytes, "grown_bytes": grown, "commits": commits}))


def _resident_bytes(what: str) -> int:
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    _main()
