"""Are the committed checkpoints still what was written? Every file is read back, none is loaded, torch isn't needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dreambooth_resume.errors import CheckpointDamaged, KeyNotFound
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import CheckpointRef, StoredFile
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.storage.base import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """One file of a checkpoint; `problem` is None if every byte is as its log entry says."""

    key: str
    size_bytes: int
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReport:
    """One checkpoint's files."""

    number: int
    folder: str
    step: int
    files: tuple[FileReport, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(file.problem for file in self.files if file.problem is not None)


OnFile = Callable[[int, int], None]
"""Told how many files were read, of how many."""


def verify_checkpoints(
    storage: Storage, refs: Sequence[CheckpointRef], *, on_file: OnFile = lambda _done, _total: None
) -> tuple[CheckpointReport, ...]:
    """Compare size and SHA-256 of every file with its log entry.

    Checkpoints that were retired meanwhile are left out: a training that goes on may delete them while we read. Raises
    AccessDenied and StorageUnavailable as the storage does: what can't be read isn't damaged for that.
    """
    total = sum(len(ref.files) for ref in refs)
    reports: list[CheckpointReport] = []
    done = 0
    for ref in refs:
        files: list[FileReport] = []
        for file in ref.files:
            files.append(FileReport(key=file.key, size_bytes=file.size_bytes, problem=problem_of(storage, file)))
            done += 1
            on_file(done, total)
        reports.append(CheckpointReport(number=ref.number, folder=ref.folder, step=ref.step, files=tuple(files)))
    if any(report.problems for report in reports):
        retired = read_log(storage).retired
        reports = [report for report in reports if report.number not in retired]
    return tuple(reports)


def refs_to_verify(log: Log) -> tuple[CheckpointRef, ...]:
    """Every checkpoint whose files must be there: those on the line and those gone back over, oldest first."""
    return tuple(ref_of(log, number) for number in sorted({*log.usable_line(), *log.off_line()}))


def check(storage: Storage, ref: CheckpointRef) -> None:
    """Raises CheckpointDamaged with the first thing that is wrong with `ref`."""
    for file in ref.files:
        if problem := problem_of(storage, file):
            raise CheckpointDamaged(problem)


def problem_of(storage: Storage, file: StoredFile) -> str | None:
    """What is wrong with one stored file, or None."""
    name = file.key.rpartition("/")[2]
    try:
        stored = storage.digest(file.key)
    except KeyNotFound:
        return f"{name} is missing"
    if stored.size_bytes != file.size_bytes:
        return f"{name} has {stored.size_bytes} of {file.size_bytes} bytes"
    if stored.sha256 != file.sha256:
        return f"{name} is not what was written (SHA-256 differs)"
    return None
