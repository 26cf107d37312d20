"""Where this machine notes this user's launches. Hints for `dbr launch list` and the queue: no run needs it."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """`$XDG_STATE_HOME/dreambooth_resume`, by default below `~/.local/state`. Not made here."""
    base = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state"
    return folder / "dreambooth_resume"


def launch_folder(launch_id: str) -> Path:
    """What this machine keeps of one launch."""
    return state_folder() / "launches" / launch_id


def output_file(launch_id: str) -> Path:
    """What a launch's supervisor and training print, where they run by this state folder."""
    return launch_folder(launch_id) / "output.log"


def write_whole(path: Path, body: bytes) -> None:
    """Write a small file so that readers see all of it or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_bytes(body)
    temporary.replace(path)
