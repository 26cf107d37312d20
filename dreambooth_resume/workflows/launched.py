"""What was launched: looked at, listed and followed, whichever launcher it was."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.launch.base import JobStatus, Launcher, LeavesThings, Leftover, Purpose
from dreambooth_resume.launch.launchers import launcher_named, split_words
from dreambooth_resume.launch.ledger import LedgerEntry, read_ledger
from dreambooth_resume.launch.output import copied_lines
from dreambooth_resume.launch.record import Launch, read_launches
from dreambooth_resume.runs.home import EVALUATION_OUTPUT_PREFIX, OUTPUT_PREFIX
from dreambooth_resume.runs.notes import read_notes
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.urls import open_storage

_ASKED_AT_ONCE = 16
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedJob:
    """A launch with what its platform says now."""

    launch: Launch
    launcher: Launcher
    status: JobStatus
    last_exit: str | None = None
    """What its supervisor noted last, where that was a crash or an end that nobody wanted."""
    exit_code: int | None = None
    """Of its supervisor, as the platform or that note says; None while it runs, and where nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRow:
    """A launch of this user, in a line."""

    launch_id: str
    home: str
    purpose: Purpose
    launcher: str
    job: str
    state: str
    """Of the job."""
    run: str
    """The run's state."""
    because: str
    launched_at: str


def newest_job(storage: Storage, purpose: Purpose = "train") -> LaunchedJob | None:
    """The last launch that was started for that, as its platform has it; None if there is none."""
    for launch in reversed(read_launches(storage, purpose)):
        if launch.job is not None:
            exits = [note for note in read_notes(storage, "exit") if note.values.get("launch") == launch.id]
            found = looked_at(launch)
            noted = exits[-1].values.get("exit_code") if exits and found.status.state in ("ended", "unknown") else None
            code = found.status.exit_code if found.status.exit_code is not None else noted
            return replace(
                found,
                last_exit=exits[-1].text if exits else None,
                exit_code=code if isinstance(code, int) else None,
            )
    return None


def live_jobs(storage: Storage, purpose: Purpose = "train") -> list[LaunchedJob]:
    """Those that may still run something, the newest first."""
    return [one for one in started_jobs(storage, purpose) if one.status.state != "ended"]


def started_jobs(storage: Storage, purpose: Purpose = "train") -> list[LaunchedJob]:
    """Every launch that was started for that, the newest first."""
    return [looked_at(launch) for launch in reversed(read_launches(storage, purpose)) if launch.job is not None]


def looked_at(launch: Launch) -> LaunchedJob:
    """With what its platform says of it, or why that isn't known."""
    launcher = launcher_named(launch.launcher, launch.settings)
    assert launch.job is not None
    try:
        status = launcher.look(launch.job)
    except DbrError as error:
        status = JobStatus(state="unknown", because=str(error))
    return LaunchedJob(launch=launch, launcher=launcher, status=status)


def list_launches(*, patience_seconds: float = 20.0) -> list[LaunchRow]:
    """Every launch of this user from this machine, oldest first; what can't be asked is said in its line.

    All are asked side by side, and waited for `patience_seconds` in all: a bucket that isn't reached, or a platform
    that doesn't answer, keeps nobody from seeing the others.
    """
    entries = read_ledger()
    rows: dict[str, LaunchRow] = {}
    left = deque(entries)

    def ask() -> None:
        with contextlib.suppress(IndexError):
            while True:
                entry = left.popleft()
                try:
                    rows[entry.launch_id] = _row(entry)
                except Exception as error:  # noqa: BLE001  a thread's root: said in its line, and the others are asked
                    rows[entry.launch_id] = _unknown(entry, f"{type(error).__name__}: {error}")

    # Daemons: one that still waits for an answer does not keep the program from ending.
    askers = [threading.Thread(target=ask, daemon=True) for _ in range(min(_ASKED_AT_ONCE, len(entries)))]
    deadline = time.monotonic() + patience_seconds
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(max(0.0, deadline - time.monotonic()))
    not_asked = left.copy()
    silent = f"has not answered for {patience_seconds:.0f} s"
    return [
        rows.get(entry.launch_id) or _unknown(entry, "was not asked yet" if entry in not_asked else silent)
        for entry in entries
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanUp:
    """What carries the mark of a launch on a platform, and which of it was removed."""

    found: tuple[Leftover, ...]
    removed: tuple[Leftover, ...]


def clean_up(where: str, words: Sequence[str], *, remove: bool) -> CleanUp:
    """Find what launches on `where` have left, of all homes; `remove` what nothing runs in. `words` are its options.

    Raises BadInput for a launcher that makes nothing by itself, and for words that are none of its options.
    """
    settings, rest = split_words(where, words)
    if rest:
        raise BadInput(f"is no option of {where}", where=rest[0], fix=f"dbr launch {where} --help")
    launcher = launcher_named(where, settings)
    if not isinstance(launcher, LeavesThings):
        raise BadInput("makes nothing that could be left over", where=where, fix="dbr launch list")
    found = tuple(launcher.leftovers())
    removed = tuple(one for one in found if remove and not one.is_in_use)
    for one in removed:
        launcher.remove(one)
    return CleanUp(found=found, removed=removed)


def output_of(storage: Storage, *, follow: bool, purpose: Purpose = "train") -> Iterator[str]:
    """The output of the newest launch for that, line by line. Raises BadInput where there is none."""
    found = newest_job(storage, purpose)
    home = shlex.quote(storage.describe())
    if found is None or found.launch.job is None:
        other: Purpose = "train" if purpose == "eval" else "eval"
        also = f"; what was launched to {other}: dbr logs {home}{' --eval' if other == 'eval' else ''}"
        raise BadInput(
            "no evaluation of it was launched" if purpose == "eval" else "was not launched, so nobody kept its output",
            where=storage.describe(),
            fix=f"look where you started it; how the run stands: dbr status {home}"
            f"{also if read_launches(storage, other) else ''}",
        )
    job, launcher = found.launch.job, found.launcher
    lines = launcher.logs(job, follow=follow)
    if lines is None:
        prefix = EVALUATION_OUTPUT_PREFIX if purpose == "eval" else OUTPUT_PREFIX
        lines = copied_lines(
            storage, is_over=lambda: not follow or launcher.look(job).state in ("ended", "unknown"), prefix=prefix
        )
    if lines is None:
        raise BadInput(
            f"the output of {found.launch.job.name} is not kept here",
            where=storage.describe(),
            fix=f"look on that machine; how the run stands: dbr status {home}",
        )
    return lines


def _unknown(entry: LedgerEntry, because: str) -> LaunchRow:
    return LaunchRow(
        launch_id=entry.launch_id, home=entry.home, purpose=entry.purpose, launcher=entry.launcher,
        job=entry.job.name, state="unknown", run="unknown", because=because, launched_at=entry.launched_at,
    )  # fmt: skip


def _row(entry: LedgerEntry) -> LaunchRow:
    job, state, run, because = "", "unknown", "unknown", ""
    try:
        # Asked again soon by whoever looks: this is no training, which would wait for its home.
        storage = open_storage(
            entry.home, replace(entry.s3, read_seconds=_ANSWER_SECONDS, operation_seconds=_ANSWER_SECONDS)
        )
        summary = summarise(storage)
        run = summary.state if summary else "not begun"
        because = summary.because if summary and entry.purpose == "train" else ""
        launches = read_launches(storage, entry.purpose)
        found = next((one for one in launches if one.id == entry.launch_id and one.job), None)
        if found is not None and found.job is not None:
            looked = looked_at(found)
            job, state = found.job.name, looked.status.state
            because = looked.status.because if state != "ended" or not because else because
    except DbrError as error:
        because = str(error)
    return replace(_unknown(entry, because), job=job, state=state, run=run)
