"""From the word HOME on a command line to a run."""

from __future__ import annotations

import shlex
from pathlib import Path

from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.home import RUN
from dreambooth_resume.runs.registry import find_homes
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.urls import open_storage


def open_run(home: str) -> tuple[Storage, RunSummary]:
    """The home's storage and how its run stands. Raises BadInput, with what to type, if there is no run."""
    storage = open_storage(home)
    summary = summarise(storage)
    if summary is None:
        raise _no_run(home)
    return storage, summary


def resume_command(home: str) -> str:
    """What goes on with a run: everything else comes from the run itself."""
    return f"dbr train --output_dir {shlex.quote(home)} --resume latest"


def _no_run(home: str) -> BadInput:
    if "://" in home:
        return BadInput("there is no run here", where=home, fix="name the --output_dir of a run")
    path = Path(home)
    if not path.exists():
        return BadInput("there is no such folder", where=home, fix="dbr runs FOLDER shows the runs below a folder")
    if path.is_file():
        return BadInput("is a file; a run's home is a folder", where=home, fix="name the --output_dir of a run")
    if (above := next((folder for folder in path.parents if (folder / RUN).is_file()), None)) is not None:
        return BadInput("lies inside a run's home and is none", where=home, fix=f"name the home: {above}")
    if (below := next(find_homes(path), None)) is not None:
        return BadInput(
            "there is no run here, but below it", where=home, fix=f"name one, such as {below}; dbr runs {home}"
        )
    return BadInput(
        "there is no run here", where=home, fix="name the --output_dir of a run; dbr runs FOLDER shows them"
    )
