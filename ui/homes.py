"""The runs below the places that the page was given, read again and again while somebody looks, and only then.

One thread reads for all tabs. What it found last is shown at once, so a slow bucket never makes a page wait.
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
from dreambooth_resume.ui.remembered import RememberedStorage
from dreambooth_resume.ui.view import JobView, RunDetail, RunRow, row_of
from dreambooth_resume.workflows.launched import newest_job

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 2.0
_WANTED_SECONDS = 10.0
_FIRST_WAIT_SECONDS = 1.0
_DETAIL_SECONDS = 1.0
"""Of each round: then what was found is shown, and the rest comes with the next one."""
_JOB_SECONDS = 15.0
_STORAGES_KEPT = 2000
_BYTES_KEPT = 300_000
"""For a run of the list. The page of one run keeps more (open_run.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was found at one moment. `problems` are places that could not be looked into."""

    rows: tuple[RunRow, ...] = ()
    problems: tuple[str, ...] = ()
    is_read: bool = False
    """The first look is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A run's detail, and by what of the run it was made."""

    seen: tuple[object, ...]
    detail: RunDetail
    at_monotonic_s: float


class Homes:
    """Reads the runs below `places`. `close` ends its thread."""

    def __init__(
        self,
        places: Sequence[str],
        s3: S3Settings | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = tuple(dict.fromkeys(place.rstrip("/") or place for place in places))
        self.s3 = s3
        self._monotonic = monotonic
        self._storages: OrderedDict[str, RememberedStorage] = OrderedDict()
        self._details: dict[str, _Known] = {}
        self._snapshot = Snapshot()
        self._lock = threading.Lock()
        self._look_lock = threading.Lock()
        self._wanted = threading.Event()
        self._is_read = threading.Event()
        self._closing = threading.Event()
        self._wanted_until = 0.0
        self._thread = threading.Thread(target=self._run, name="dbr-ui-homes", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def snapshot(self) -> Snapshot:
        """What was found last. The first caller waits up to a second, so that a page need not be drawn twice."""
        self._wanted_until = self._monotonic() + _WANTED_SECONDS
        self._wanted.set()
        if self._thread.is_alive():
            self._is_read.wait(_FIRST_WAIT_SECONDS)
        return self._snapshot

    def storage(self, home: str) -> Storage:
        """The home's storage, which remembers. `home` must have been found: see `found`."""
        return self._opened(home, self.s3)

    def found(self, home: object) -> str:
        """`home` as it was found below one of the places.

        Raises BadInput for any other text: nothing that a browser sends is ever opened as a path.
        """
        text = str(home).strip() if isinstance(home, str) else ""
        for look_again in (False, True):
            if look_again:
                self.look()
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
        """Read what is new. One look at a time; details take as long as they take only if they were asked for."""
        with self._look_lock:
            found, problems = self._find()
            self._publish(found, problems)
            self._read_details(found, deadline=None if details else self._monotonic() + _DETAIL_SECONDS)
            return self._publish(found, problems)

    def _run(self) -> None:
        while not self._closing.is_set():
            if not self._wanted.wait(timeout=60.0) or self._closing.is_set():
                continue
            try:
                self.look()
            except Exception:
                # A thread's root: the page would stand still in silence.
                logger.exception("Looking for runs failed; tried again in %.0f s", INTERVAL_SECONDS)
            self._is_read.set()
            if self._monotonic() > self._wanted_until:
                self._wanted.clear()
            self._closing.wait(INTERVAL_SECONDS)

    def _find(self) -> tuple[list[FoundRun], list[str]]:
        found: list[FoundRun] = []
        problems: list[str] = []
        for place in self.places:
            try:
                found += find_runs(place, self.s3, lambda home: self._opened(home, self.s3))
            except DbrError as error:
                problems.append(f"{place}: {error}")
        return list({one.home: one for one in found}.values()), problems

    def _publish(self, found: Sequence[FoundRun], problems: Sequence[str]) -> Snapshot:
        now = datetime.now(UTC)
        details = {home: known.detail for home, known in self._details.items()}
        rows = tuple(row_of(one, details.get(one.home), now=now) for one in found)
        self._snapshot = Snapshot(rows=rows, problems=tuple(problems), is_read=True)
        self._is_read.set()
        return self._snapshot

    def _read_details(self, found: Sequence[FoundRun], *, deadline: float | None) -> None:
        there = {one.home for one in found}
        self._details = {home: known for home, known in self._details.items() if home in there}
        # Those of whom nothing is known come first.
        for one in sorted(found, key=lambda one: one.home in self._details):
            if deadline is not None and self._monotonic() > deadline:
                return
            if one.summary is not None and self._is_stale(one.home, one.summary):
                self._details[one.home] = self._detail(one.home, one.summary)

    def _is_stale(self, home: str, summary: RunSummary) -> bool:
        known = self._details.get(home)
        if known is None or known.seen != _seen(summary):
            return True
        waits = not summary.is_live and summary.state != "finished"
        return waits and self._monotonic() - known.at_monotonic_s > _JOB_SECONDS

    def _detail(self, home: str, summary: RunSummary) -> _Known:
        storage = self._opened(home, self.s3)
        try:
            detail = read_detail(storage, summary)
        except DbrError as error:
            logger.debug("%s: %s", home, error)
            detail = RunDetail(interruptions=0, cost=None, effective_batch=None, began_at=None, job=None)
        return _Known(seen=_seen(summary), detail=detail, at_monotonic_s=self._monotonic())

    def _opened(self, home: str, s3: S3Settings | None) -> RememberedStorage:
        with self._lock:
            storage = self._storages.get(home)
            if storage is None:
                storage = RememberedStorage(open_storage(home, s3), bytes_kept=_BYTES_KEPT)
                self._storages[home] = storage
                if len(self._storages) > _STORAGES_KEPT:
                    self._storages.popitem(last=False)
            else:
                self._storages.move_to_end(home)
            return storage


def read_detail(storage: Storage, summary: RunSummary) -> RunDetail:
    """Interruptions, cost and job of a run: its whole log is read. Raises what the storage raises."""
    log, record = read_log(storage), read_record(storage)
    history = history_of(log, {}, now=datetime.now(UTC))
    totals = totals_of(history, log.last.state.totals) if log.last else None
    looks_at_job = not summary.is_live and summary.state != "finished"
    return RunDetail(
        interruptions=interruptions(log) if log.entries else 0,
        cost=totals.cost if totals else None,
        effective_batch=record.effective_batch if record else None,
        began_at=record.created_at if record else None,
        job=read_job(storage) if looks_at_job else None,
    )


def read_job(storage: Storage) -> JobView | None:
    """How the newest launch stands, by its platform; None if it was never launched."""
    found = newest_job(storage)
    if found is None or found.launch.job is None:
        return None
    return JobView(
        launcher=found.launch.launcher,
        name=found.launch.job.name,
        state=found.status.state,
        because=found.status.because,
        last_exit=found.last_exit,
    )


def _seen(summary: RunSummary) -> tuple[object, ...]:
    return summary.state, summary.attempt, summary.durable_step, summary.steps_trained, summary.exit_code


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
