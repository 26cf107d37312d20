"""The runs below the places that the page was given, read again and again while somebody looks, and only then.

One thread reads for all tabs. What it found last is shown at once, so a slow bucket never makes a page wait. A folder
is read every two seconds, a bucket, where every request costs money, four times a minute, and a finished run rarely.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.runs.history import history_of, interruptions, totals_of
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.runs.registry import FoundRun, find_runs
from dreambooth_resume.runs.summary import RunSummary
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.storage.urls import open_storage
from dreambooth_resume.ui.jobs import read_job
from dreambooth_resume.ui.remembered import RememberedStorage
from dreambooth_resume.ui.view import JobView, RunDetail, RunRow, row_of

logger = logging.getLogger(__name__)

_ROUND_SECONDS = 2.0
_WANTED_SECONDS = 10.0
_FIRST_WAIT_SECONDS = 1.0
_DETAIL_SECONDS = 1.0
"""Of each round: then what was found is shown, and the rest comes with the next one."""
_STORAGES_KEPT = 2000
_BYTES_KEPT = 300_000
"""For a run of the list. The page of one run keeps more (open_run.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long what was read counts as new, in seconds."""

    place: float
    finished: float
    """A run that is finished: only its user changes it."""
    job: float
    """What a platform says of a job that waits or runs."""
    no_job: float
    """That nothing was launched, or that it ended."""
    ending_job: float
    """That a job runs whose run was stopped or has failed: as a rule it is about to end."""


PACE = Pace(place=1.0, finished=20.0, job=15.0, no_job=15.0, ending_job=3.0)
BUCKET_PACE = Pace(place=15.0, finished=600.0, job=60.0, no_job=300.0, ending_job=10.0)


def pace_of(home: str) -> Pace:
    """The pace of a home, or of a place with homes."""
    return BUCKET_PACE if "://" in home else PACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was found at one moment. `problems` are places that could not be looked into."""

    rows: tuple[RunRow, ...] = ()
    problems: tuple[str, ...] = ()
    is_read: bool = False
    """The first look is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A run, and when it was looked at: the ages in its summary are of that moment."""

    found: FoundRun
    at: datetime
    at_monotonic_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What the last look into a place found."""

    seen: tuple[_Seen, ...]
    """Where it could not be looked into for a moment: what the look before found, with the moments of that one."""
    problem: str | None
    at_monotonic_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A run's detail, and by what of the run it was made."""

    made_of: tuple[object, ...]
    detail: RunDetail
    at_monotonic_s: float


class Homes:
    """Reads the runs below `places`, each in a thread of its own: one that doesn't answer holds up no other."""

    def __init__(
        self,
        places: Sequence[str],
        s3: S3Settings | None = None,
        *,
        opened: Callable[[str, S3Settings | None], Storage] = open_storage,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = tuple(dict.fromkeys(place.rstrip("/") or place for place in places))
        self.s3 = s3
        self._open = opened
        self._monotonic = monotonic
        self._storages: OrderedDict[str, RememberedStorage] = OrderedDict()
        self._read: dict[str, _Place] = {}
        self._details: dict[str, _Known] = {}
        self._forgotten: set[str] = set()
        self._snapshot = Snapshot()
        self._lock = threading.Lock()
        self._look_locks = {place: threading.Lock() for place in self.places}
        self._wanted = threading.Event()
        self._hurries = {place: threading.Event() for place in self.places}
        self._is_read = threading.Event()
        self._closing = False
        self._wanted_until = 0.0
        self._threads = [
            threading.Thread(target=self._run, args=(place,), name="dbr-ui-homes", daemon=True) for place in self.places
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closing = True
        self._wanted.set()
        self._hurry()
        end = time.monotonic() + 5.0
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=max(0.0, end - time.monotonic()))

    def snapshot(self) -> Snapshot:
        """What was found last. The first caller waits up to a second, so that a page need not be drawn twice."""
        self._wanted_until = self._monotonic() + _WANTED_SECONDS
        self._wanted.set()
        if any(thread.is_alive() for thread in self._threads):
            self._is_read.wait(_FIRST_WAIT_SECONDS)
        return self._snapshot

    def storage(self, home: str) -> Storage:
        """The home's storage, which remembers. `home` must have been found: see `found`."""
        return self._opened(home)

    def found(self, home: object) -> str:
        """`home` as it was found below one of the places.

        Raises BadInput for any other text: nothing that a browser sends is ever opened as a path. However often it is
        asked for a home that isn't there, no place is read more often than its pace says.
        """
        text = str(home).strip() if isinstance(home, str) else ""
        for look_again in (False, True):
            if look_again:
                for place in self.places:
                    if text and (_is_below(text, place) or _is_same(text, place)):
                        self._look_into(place, only_due=True)
            for row in self._snapshot.rows:
                if text and _is_same(row.home, text):
                    return row.home
        raise BadInput(
            "there is no such run (any more) below the folders of this page",
            where=text[:200] or "home",
            fix="dbr ui --homes FOLDER, with the folder that holds it",
        )

    def allows(self, home: str) -> bool:
        """May a new run be begun in `home`: does it lie below one of the places?"""
        return any(_is_below(home, place) for place in self.places)

    def look(self, *, details: bool = False) -> Snapshot:
        """Read everything. One look at a place at a time; details take as long as they take only if asked for."""
        return self._look(only_due=False, detail_seconds=None if details else _DETAIL_SECONDS)

    def forget(self, home: str) -> None:
        """Something was done about `home`: it is looked at anew, and so is the place where it lies."""
        with self._lock:
            self._forgotten.add(home)
        self._hurry()

    def _hurry(self) -> None:
        for hurry in self._hurries.values():
            hurry.set()

    def _run(self, place: str) -> None:
        hurry = self._hurries[place]
        while not self._closing:
            if not self._wanted.wait(timeout=60.0) or self._closing:
                continue
            hurry.clear()
            try:
                self._look_into(place, only_due=True)
            except Exception:
                # A thread's root: the page would stand still in silence.
                logger.exception("Looking for runs failed; tried again in %.0f s", _ROUND_SECONDS)
            self._is_read.set()
            if self._monotonic() > self._wanted_until:
                self._wanted.clear()
            hurry.wait(_ROUND_SECONDS)

    def _look(self, *, only_due: bool, detail_seconds: float | None = _DETAIL_SECONDS) -> Snapshot:
        for place in self.places:
            self._look_into(place, only_due=only_due, detail_seconds=detail_seconds)
        return self._snapshot

    def _look_into(self, place: str, *, only_due: bool, detail_seconds: float | None = _DETAIL_SECONDS) -> None:
        with self._look_locks[place]:
            with self._lock:
                forgotten = {home for home in self._forgotten if _is_below(home, place) or _is_same(home, place)}
                self._forgotten -= forgotten
                for home in forgotten:
                    self._details.pop(home, None)
            if not only_due or self._is_due(place, forgotten):
                self._read[place] = self._find(place, forgotten, anew=not only_due)
            read = self._read[place]
            self._publish()
            # Of a place that doesn't answer nothing new was found.
            self._read_details(
                [] if read.problem else [one.found for one in read.seen],
                deadline=None if detail_seconds is None else self._monotonic() + detail_seconds,
            )
            self._publish()

    def _is_due(self, place: str, forgotten: set[str]) -> bool:
        read = self._read.get(place)
        if read is None or forgotten:
            return True
        return self._monotonic() - read.at_monotonic_s >= pace_of(place).place

    def _find(self, place: str, forgotten: set[str], *, anew: bool) -> _Place:
        last = self._read[place].seen if place in self._read else ()
        before = {one.found.home: one for one in last} if not anew else {}
        kept = {
            home: one
            for home, one in before.items()
            if one.found.summary is not None
            and one.found.summary.state == "finished"
            and home not in forgotten
            and self._monotonic() - one.at_monotonic_s < pace_of(home).finished
        }
        try:
            found = find_runs(
                place,
                self.s3,
                self._opened,
                known=lambda home: kept[home].found if home in kept else None,
            )
        except DbrError as error:
            # A place that isn't there holds nothing. One that only doesn't answer holds what it held: its runs may be
            # training, and can be stopped.
            seen = () if isinstance(error, BadInput) else last
            return _Place(seen=seen, problem=f"{place}: {error}", at_monotonic_s=self._monotonic())
        at, at_monotonic_s = datetime.now(UTC), self._monotonic()
        seen = tuple(kept.get(one.home) or _Seen(found=one, at=at, at_monotonic_s=at_monotonic_s) for one in found)
        return _Place(seen=seen, problem=None, at_monotonic_s=at_monotonic_s)

    def _publish(self) -> None:
        """Show what is known of all places, also while some are being read for the first time."""
        with self._lock:
            read = [self._read[place] for place in self.places if place in self._read]
            seen = {one.found.home: one for found in read for one in found.seen}
            self._details = {home: known for home, known in self._details.items() if home in seen}
            details = {home: known.detail for home, known in self._details.items()}
            rows = tuple(row_of(one.found, details.get(home), now=one.at) for home, one in seen.items())
            problems = tuple(found.problem for found in read if found.problem is not None)
            is_read = bool(rows) or len(read) == len(self.places)
            self._snapshot = Snapshot(rows=rows, problems=problems, is_read=is_read)
        if is_read:
            self._is_read.set()

    def _read_details(self, found: Sequence[FoundRun], *, deadline: float | None) -> None:
        # Those of whom nothing is known come first.
        for one in sorted(found, key=lambda one: one.home in self._details):
            if deadline is not None and self._monotonic() > deadline:
                return
            if one.summary is not None and self._is_stale(one.home, one.summary):
                known = self._detail(one.home, one.summary)
                with self._lock:
                    self._details[one.home] = known

    def _is_stale(self, home: str, summary: RunSummary) -> bool:
        known = self._details.get(home)
        if known is None or known.made_of != self._made_of(home, summary):
            return True
        if not _asks_for_its_job(summary):
            return False
        job, pace = known.detail.job, pace_of(home)
        lasts = pace.no_job if job is None or job.state == "ended" else pace.job
        if is_about_to_end(summary, job):
            lasts = pace.ending_job
        return self._monotonic() - known.at_monotonic_s > lasts

    def _detail(self, home: str, summary: RunSummary) -> _Known:
        storage = self._opened(home)
        try:
            detail = read_detail(storage, summary)
        except DbrError as error:
            logger.debug("%s: %s", home, error)
            detail = RunDetail(interruptions=0, cost=None, effective_batch=None, began_at=None, job=None)
        return _Known(made_of=self._made_of(home, summary), detail=detail, at_monotonic_s=self._monotonic())

    def _made_of(self, home: str, summary: RunSummary) -> tuple[object, ...]:
        with self._lock:
            replaced = self._storages[home].replaced if home in self._storages else 0
        return (
            summary.state, summary.attempt, summary.durable_step, summary.steps_trained, summary.exit_code, replaced,
        )  # fmt: skip

    def _opened(self, home: str) -> RememberedStorage:
        with self._lock:
            if (storage := self._storages.get(home)) is not None:
                self._storages.move_to_end(home)
                return storage
        # Not under the lock: credentials may be asked for from a service that doesn't answer.
        opened = RememberedStorage(self._open(home, self.s3), bytes_kept=_BYTES_KEPT)
        with self._lock:
            storage = self._storages.setdefault(home, opened)
            self._storages.move_to_end(home)
            if len(self._storages) > _STORAGES_KEPT:
                self._storages.popitem(last=False)
            return storage


def read_detail(storage: Storage, summary: RunSummary) -> RunDetail:
    """Interruptions, cost and job of a run: its whole log is read. Raises what the storage raises."""
    log, record = read_log(storage), read_record(storage)
    history = history_of(log, {}, now=datetime.now(UTC))
    totals = totals_of(history, log.last.state.totals) if log.last else None
    return RunDetail(
        interruptions=interruptions(log) if log.entries else 0,
        cost=totals.cost if totals else None,
        effective_batch=record.effective_batch if record else None,
        began_at=record.created_at if record else None,
        job=read_job(storage, has_begun=summary.attempt is not None) if _asks_for_its_job(summary) else None,
    )


def _asks_for_its_job(summary: RunSummary) -> bool:
    """Is there anything that only the platform knows? Of a first start the log says nothing yet."""
    return summary.attempt is None or (not summary.is_live and summary.state != "finished")


def is_about_to_end(summary: RunSummary, job: JobView | None) -> bool:
    """Does a job still run whose run was stopped, or failed for good? Nobody restarts that: unless somebody has just
    resumed it, the job ends within moments, and believed for longer it would make the run look as if it came back.
    """
    return summary.state == "stopped" and job is not None and job.state == "running"


def _is_same(home: str, text: str) -> bool:
    if "://" in home or "://" in text:
        return home == text.rstrip("/")
    return os.path.abspath(home) == os.path.abspath(text)  # noqa: PTH100  compared, and never opened


def _is_below(home: str, place: str) -> bool:
    if "://" in place or "://" in home:
        parts = home.rstrip("/").partition("://")[2].split("/")
        return home.startswith(f"{place}/") and not {"", ".", ".."} & set(parts)
    inner, outer = os.path.realpath(home), os.path.realpath(place)
    return inner != outer and os.path.commonpath([inner, outer]) == outer
