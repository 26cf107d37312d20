"""What `dbr doctor` asks of the home: every right by name, how writers are kept apart, the clock. Nothing is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreambooth_resume.errors import AccessDenied, StorageUnavailable
from dreambooth_resume.insight.doctor import judge_clock
from dreambooth_resume.insight.findings import Finding, Severity
from dreambooth_resume.storage.access import PermissionMissing, PermissionsMissing, check_access
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.probe import probe
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.workflows.home import Place


def look_at_home(place: Place, *, unfenced: bool) -> list[Finding]:
    """Put, conditional put, read, list and delete, in the place itself."""
    storage, where = place.storage, place.storage.describe()
    began = time.monotonic()
    ahead_seconds: float | None = None
    try:
        with as_it_was(place):
            if place.is_remote:
                check_access(storage)
            fencing = probe(storage, allow_unfenced=unfenced)
            took = time.monotonic() - began
            if isinstance(storage, S3Storage | LocalStorage):
                ahead_seconds = storage.clock_ahead_seconds()
    except PermissionsMissing as error:
        return [_missing(one, where, severity="fatal") for one in error.missing]
    what = f"put, read, list and delete work, in {took:.1f} s; {fencing}"
    found = [Finding(severity="fine", about="home", what=what, where=where)]
    if isinstance(storage, S3Storage):
        found += _rights_to_tidy(storage)
    return found + judge_clock(ahead_seconds, is_signed_with=place.is_remote)


@contextmanager
def as_it_was(place: Place) -> Iterator[None]:
    """The folders that a run which has not begun has no need of are gone again at the end."""
    home = Path(place.storage.describe())
    missing = [] if place.is_remote else [folder for folder in [home, *home.parents] if not folder.exists()]
    try:
        yield
    finally:
        if missing:
            _remove_empty(home)
        for above in missing[1:]:
            if above.is_dir() and not any(above.iterdir()):
                above.rmdir()


def _rights_to_tidy(storage: S3Storage) -> list[Finding]:
    """A run goes on without them; what large uploads leave when they are killed is then paid for."""
    try:
        missing = storage.missing_to_tidy()
    except (StorageUnavailable, AccessDenied):
        return []  # of a store that has no such thing, or answers just now no more: a run doesn't need it
    return [_missing(one, storage.describe(), severity="warning") for one in missing]


def _missing(one: PermissionMissing, where: str, *, severity: Severity) -> Finding:
    what = f"{one.permission} is missing"
    if severity == "warning":
        what += ": what a killed upload of a large file leaves stays, and is paid for"
    fix = f"a policy statement that grants it: {one.grant}"
    return Finding(severity=severity, about="home", what=what, where=where, fix=fix)


def _remove_empty(folder: Path) -> None:
    """What is empty in a folder, and the folder itself."""
    for inner in sorted(folder.rglob("*"), reverse=True):
        if inner.is_dir() and not any(inner.iterdir()):
            inner.rmdir()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
