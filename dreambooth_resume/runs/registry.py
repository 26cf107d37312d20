"""Which runs lie below a folder, or in a bucket."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dreambooth_resume.errors import AccessDenied, BadInput, DbrError, StorageUnavailable
from dreambooth_resume.runs.home import NOTES_PREFIX, RUN, is_launch_note
from dreambooth_resume.runs.summary import RunSummary, summarise, summarise_launch
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.storage.urls import open_storage

_DEPTH_MAX = 6
"""Folders below the one asked about: somebody's whole disk must not be walked because of a slip of the hand."""
_FOLDERS_MAX = 10_000
_LOOKERS = 24
"""Into a bucket at once: each waits for an answer nearly all the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRun:
    """A run's home with its summary, or with what keeps it from being read: one broken run must not hide the others."""

    home: str
    summary: RunSummary | None
    problem: str | None = None


Opener = Callable[[str], Storage]
"""From a home's address to its storage; `open_storage` with the settings of the bucket, or one that remembers."""
Known = Callable[[str], FoundRun | None]
"""What is known of a home and need not be read again."""
_NOTES = NOTES_PREFIX.rstrip("/")


def find_runs(
    folder: str, s3: S3Settings | None = None, opened: Opener | None = None, *, known: Known = lambda _home: None
) -> tuple[FoundRun, ...]:
    """Every run in `folder` (or s3://bucket) and below, sorted by path; it may be one itself.

    A run that was launched and has written nothing of its own yet is one too. Of a home that `known` knows, nothing is
    read. Raises BadInput if there is no such place, AccessDenied and StorageUnavailable as the storage does.
    """
    opened = opened or (lambda home: open_storage(home, s3))
    if "://" in folder:
        return tuple(sorted(_find_in_store(folder.rstrip("/"), opened, known), key=lambda found: found.home))
    root = Path(folder)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "there is no such folder"
        raise BadInput(what, where=folder, fix="dbr runs FOLDER, with the folder that holds your output folders")
    return tuple(known(str(home)) or _look_at(str(home), opened) for home in sorted(find_homes(root)))


def find_homes(root: Path) -> Iterator[Path]:
    """Folders that hold a `run.json`, or a note that one was launched there.

    What lies inside a home, links and hidden folders are not looked into.
    """
    for here, folders, files in os.walk(root):
        path = Path(here)
        if RUN in files or (_NOTES in folders and was_launched(path)):
            folders.clear()
            yield path
        elif len(path.relative_to(root).parts) >= _DEPTH_MAX:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def was_launched(home: Path) -> bool:
    """Is there a note of a launch in this folder?"""
    try:
        return any(is_launch_note(found.name) for found in os.scandir(home / _NOTES))
    except OSError:
        return False


def _look_at(home: str, opened: Opener) -> FoundRun:
    try:
        storage = opened(home)
        return FoundRun(home=home, summary=summarise(storage) or summarise_launch(storage))
    except DbrError as error:
        return FoundRun(home=home, summary=None, problem=str(error))


def _find_in_store(root: str, opened: Opener, known: Known) -> Iterator[FoundRun]:
    """A run costs one LIST and two GETs, any other folder two LISTs and a GET: what lies in a home is never listed.

    A folder of notes is looked into for a launch. Hidden folders, and names that can be no home, are not looked into.
    """
    look = partial(_look_into, opened=opened, known=known, root=root)
    waiting, looked = [root], 0
    with ThreadPoolExecutor(_LOOKERS) as pool:
        for depth in range(_DEPTH_MAX + 1):
            looked += len(waiting)
            if looked > _FOLDERS_MAX:
                raise BadInput(
                    f"more than {_FOLDERS_MAX:,} folders lie here", where=root, fix="name one that holds your runs"
                )
            found = list(pool.map(look, waiting))
            yield from (one for one in found if isinstance(one, FoundRun))
            below = [address for one in found if not isinstance(one, FoundRun) for address in one]
            waiting = below if depth < _DEPTH_MAX else []
            if not waiting:
                return


def _look_into(address: str, *, opened: Opener, known: Known, root: str) -> FoundRun | list[str]:
    """The run at `address`, or the folders below it."""
    if (before := known(address)) is not None:
        return before
    is_root = address == root
    try:
        storage = opened(address)
        summary = summarise(storage)
        if summary is not None:
            return FoundRun(home=address, summary=summary)
        names = [folder.rstrip("/") for folder in storage.folders()]
        if _NOTES in names and (launched := summarise_launch(storage)) is not None:
            return FoundRun(home=address, summary=launched)
    except BadInput:
        if is_root:
            raise
        return []
    except DbrError as error:
        if is_root and isinstance(error, AccessDenied | StorageUnavailable):
            raise
        return FoundRun(home=address, summary=None, problem=str(error))
    return [f"{address}/{name}" for name in names if name and not name.startswith(".")]
