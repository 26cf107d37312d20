"""A folder for what is looked at or tried out in passing. A kill leaves one, and whoever comes next removes it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from dreambooth_resume.runs.entries import Process
from dreambooth_resume.runs.holder import is_known_gone, this_process

SCRATCH_PREFIX = "dbr-doctor-"
_OWNER = ".owner.json"
_FORGOTTEN_SECONDS = 7 * 24 * 3600.0


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what is looked at in passing. Those of doctors that were killed on this machine go first.

    A folder for temporary files may be shared by machines: of another one's process nothing can be told from here, so
    its folder stays for a week, as does one of which nobody has said yet whose it is.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        if _is_nobodys(left):
            shutil.rmtree(left, ignore_errors=True)
    here = this_process()
    folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{here.pid}-"))
    try:
        (folder / _OWNER).write_text(here.model_dump_json())
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_nobodys(folder: Path) -> bool:
    """Its process was one of this boot, and is no more; or it is older than whatever is looked at takes."""
    with contextlib.suppress(OSError, ValidationError):
        if is_known_gone(Process.model_validate_json((folder / _OWNER).read_bytes())):
            return True
    with contextlib.suppress(OSError):
        return time.time() - folder.stat().st_mtime > _FORGOTTEN_SECONDS
    return False
