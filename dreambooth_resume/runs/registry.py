"""Which runs lie below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.runs.home import RUN
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.storage.urls import open_storage

_DEPTH_MAX = 6
"""Folders below the one asked about: somebody's whole disk must not be walked because of a slip of the hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run's home with its summary, or with what keeps it from being read: one broken run must not hide the others."""

    home: str
    summary: RunSummary | None
    problem: str | None = None


def find_runs(folder: str) -> tuple[FoundRun, ...]:
    """Every run in `folder` and below, sorted by path; it may be one itself. Raises BadInput if it isn't a folder."""
    if "://" in folder:
        open_storage(folder)  # raises for what no version of ours can read
        raise BadInput("runs are looked for in folders only", where=folder, fix=f"dbr status {folder}, for one run")
    root = Path(folder)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "there is no such folder"
        raise BadInput(what, where=folder, fix="dbr runs FOLDER, with the folder that holds your output folders")
    return tuple(_look_at(str(home)) for home in sorted(find_homes(root)))


def find_homes(root: Path) -> Iterator[Path]:
    """Folders that hold a `run.json`. What lies inside a home, links and hidden folders are not looked into."""
    for here, folders, files in os.walk(root):
        path = Path(here)
        if RUN in files:
            folders.clear()
            yield path
        elif len(path.relative_to(root).parts) >= _DEPTH_MAX:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _look_at(home: str) -> FoundRun:
    try:
        return FoundRun(home=home, summary=summarise(open_storage(home)))
    except DbrError as error:
        return FoundRun(home=home, summary=None, problem=str(error))
