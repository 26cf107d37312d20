"""The checkpoints that a log tells of, and which one a user means. Pure functions of the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import CheckpointRef, Commit, Finished
from dreambooth_resume.runs.log import Log

CheckpointState = Literal["live", "gone back over", "set aside", "retired"]
"""`live`: on the run's line. `gone back over`: whole, but the run went back and took another way since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointInfo:
    """One committed checkpoint and what has become of it."""

    number: int
    """Its log entry."""
    folder: str
    step: int
    attempt: int
    committed_at: str
    reason: str
    size_bytes: int
    state: CheckpointState
    is_newest: bool
    """The one that `--resume latest` begins from."""
    is_result: bool
    note: str | None
    """Why it was set aside."""


def list_checkpoints(log: Log) -> tuple[CheckpointInfo, ...]:
    """Every checkpoint that was ever committed, oldest first."""
    usable = log.usable_line()
    # A run that was reopened has several; what lies in the home is the last one's.
    result = next((entry.body.checkpoint for entry in reversed(log.entries) if isinstance(entry.body, Finished)), None)
    return tuple(
        CheckpointInfo(
            number=entry.number,
            folder=entry.body.folder,
            step=entry.body.step,
            attempt=entry.attempt,
            committed_at=entry.written_at,
            reason=entry.body.reason,
            size_bytes=sum(file.size_bytes for file in entry.body.files),
            state=_state(log, entry.number),
            is_newest=bool(usable) and entry.number == usable[-1],
            is_result=entry.number == result,
            note=log.set_aside[entry.number].reason if entry.number in log.set_aside else None,
        )
        for entry in log.entries
        if isinstance(entry.body, Commit)
    )


def find_checkpoint(log: Log, name: str, *, where: str) -> CheckpointRef:
    """The one that is meant by a step (`500`) or a folder's name (`checkpoint-500-a3`); retired ones are never meant.

    Of several with the same step the one on the run's line is. Raises BadInput that names what there is.
    """
    named = [info for info in list_checkpoints(log) if name in (str(info.step), info.folder)]
    gone = [info for info in named if info.state == "retired"]
    there = [info for info in list_checkpoints(log) if info.state != "retired"]
    named = [info for info in named if info.state != "retired"]
    on_line = [info for info in named if info.state == "live"]
    if len(chosen := on_line or named) == 1:
        return ref_of(log, chosen[0].number)
    if chosen:
        folders = " or ".join(info.folder for info in chosen)
        raise BadInput(f"{len(chosen)} checkpoints are of step {name}", where=where, fix=f"name one: {folders}")
    if gone:
        raise BadInput(f"{gone[-1].folder} was retired, its files are gone", where=where, fix=_what_there_is(there))
    raise BadInput(f"{name} is no checkpoint of this run", where=where, fix=_what_there_is(there))


def _what_there_is(there: list[CheckpointInfo]) -> str:
    if not there:
        return "it has none yet"
    shown = ", ".join(info.folder for info in there[-8:])
    return f"name one of {shown}" if len(there) <= 8 else f"name one, such as {shown}"


def _state(log: Log, number: int) -> CheckpointState:
    if number in log.retired:
        return "retired"
    if number in log.set_aside:
        return "set aside"
    return "live" if number in log.line else "gone back over"
