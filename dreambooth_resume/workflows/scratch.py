"""A folder for what is looked at or tried out in passing. A kill leaves one, and whoever comes next removes it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

SCRATCH_PREFIX = "dbr-doctor-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what is looked at in passing. Those of doctors that were killed go first."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        pid = left.name.removeprefix(SCRATCH_PREFIX).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
