"""One run as its page shows it: read incrementally, shared by all tabs that show it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from dreambooth_resume.errors import DbrError
from dreambooth_resume.runs.checkpoints import CheckpointInfo, list_checkpoints
from dreambooth_resume.runs.curves import Measured, read_curve
from dreambooth_resume.runs.history import Attempt, HistoryTotals, history_of, interruptions, totals_of
from dreambooth_resume.runs.home import METRICS_PREFIX
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.record import RunRecord, read_record
from dreambooth_resume.runs.registry import FoundRun
from dreambooth_resume.runs.samples import SampleSet, read_samples
from dreambooth_resume.runs.status import Status, read_status
from dreambooth_resume.runs.summary import RunSummary, summarise, summarise_launch
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.urls import open_storage
from dreambooth_resume.ui.homes import Homes, is_about_to_end, pace_of
from dreambooth_resume.ui.jobs import last_lines, read_job
from dreambooth_resume.ui.points import ChartKind, chart
from dreambooth_resume.ui.remembered import RememberedStorage
from dreambooth_resume.ui.view import JobView, RunDetail, RunRow, row_of

_OUTPUT_SECONDS = 4.0
_BYTES_KEPT = 8_000_000
_RUNS_KEPT = 64
CHARTS: tuple[ChartKind, ...] = ("loss", "lr", "speed", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """Everything that the page of a run shows, but for the pictures themselves."""

    row: RunRow
    summary: RunSummary
    record: RunRecord | None
    options: dict[str, object]
    """As resolved, with the changes since."""
    attempts: tuple[Attempt, ...]
    totals: HistoryTotals | None
    checkpoints: tuple[CheckpointInfo, ...]
    charts: dict[ChartKind, str]
    measured: int
    """Steps that were measured and count."""
    samples: tuple[SampleSet, ...]
    lines: tuple[str, ...] | None
    """The end of what its newest launch printed; None where nobody kept it."""
    job: JobView | None


class OpenRun:
    """The run in `storage`; `view` reads what is new, for all who ask, and no more often than the home's pace says."""

    def __init__(self, home: str, storage: Storage, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.home = home
        self.storage = RememberedStorage(storage, bytes_kept=_BYTES_KEPT)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._view: RunView | None = None
        self._trouble: DbrError | None = None
        """What the last look ended with: it, too, counts for as long as a look does."""
        self._lasts_until = 0.0
        self.commands = 0
        """How often something was done about the run by this page."""
        self._forget_run()

    def _forget_run(self) -> None:
        """What lay here was deleted: nothing that was made of it holds for the run that lies here now."""
        self._replaced = self.storage.replaced
        self._log: Log | None = None
        self._statuses: dict[int, Status] = {}
        self._measured: Measured = {}
        self._charts: dict[ChartKind, str] = {}
        self._charts_of: object = None
        self._points = 0
        self._job: tuple[float, JobView | None] | None = None
        self._output: tuple[float, tuple[str, ...] | None] | None = None

    def view(self, *, fresh: bool = False) -> RunView | None:
        """How it stands; None if the run is no longer there. Raises what the storage and a damaged log raise."""
        with self._lock:
            if not fresh and self._monotonic() < self._lasts_until:
                if self._trouble is not None:
                    raise self._trouble.with_traceback(None)
                if self._view is not None:
                    return self._view
            pace, is_over = pace_of(self.home), False
            self._trouble = None
            try:
                self._view = self._read()
                is_over = self._view is not None and self._view.row.state == "finished"
            except DbrError as error:
                self._trouble = error
                raise
            finally:
                self._lasts_until = self._monotonic() + (pace.finished if is_over else pace.place)
            return self._view

    def _read(self) -> RunView | None:
        summary = summarise(self.storage) or summarise_launch(self.storage)
        if self.storage.replaced != self._replaced:
            self._forget_run()
        if summary is None:
            return None
        self._log = log = read_log(self.storage, self._log)
        record = read_record(self.storage)
        attempts = self._history(log, summary)
        totals = totals_of(attempts, log.last.state.totals) if log.last else None
        job = self._read_job(summary)
        detail = RunDetail(
            interruptions=interruptions(log) if log.entries else 0,
            cost=totals.cost if totals else None,
            effective_batch=record.effective_batch if record else None,
            began_at=record.created_at if record else None,
            job=job,
        )
        self._draw(log, detail.effective_batch)
        changed = log.last.state.changed_options if log.last else {}
        return RunView(
            row=row_of(FoundRun(home=self.home, summary=summary), detail, now=datetime.now(UTC)),
            summary=summary,
            record=record,
            options={**record.options, **changed} if record else {},
            attempts=attempts,
            totals=totals,
            checkpoints=list_checkpoints(log),
            charts=dict(self._charts),
            measured=self._points,
            samples=read_samples(self.storage),
            lines=self._lines(),
            job=job,
        )

    def _history(self, log: Log, summary: RunSummary) -> tuple[Attempt, ...]:
        """With the heartbeats of ended attempts read once: they don't move any more."""
        numbers = sorted({entry.attempt for entry in log.entries})
        for number in numbers:
            if number not in self._statuses or number in (summary.attempt, numbers[-1]):
                status = read_status(self.storage, number)
                if status is not None:
                    self._statuses[number] = status
        return history_of(log, self._statuses, now=datetime.now(UTC))

    def _draw(self, log: Log, effective_batch: int | None) -> None:
        listed = tuple((found.key, found.size_bytes) for found in self.storage.list(METRICS_PREFIX))
        seen = (len(log.entries), listed)
        if seen == self._charts_of:
            return
        curve = read_curve(self.storage, known=self._measured)
        self._charts = {kind: chart(curve, kind, effective_batch=effective_batch) for kind in CHARTS}
        self._points = len(curve.points)
        self._charts_of = seen

    def _read_job(self, summary: RunSummary) -> JobView | None:
        now = self._monotonic()
        if self._job is None or now - self._job[0] > self._job_lasts(summary, self._job[1]):
            try:
                self._job = now, read_job(self.storage, has_begun=summary.attempt is not None)
            except DbrError as error:
                self._job = now, JobView(launcher="", name="", state="unknown", because=str(error))
        return self._job[1]

    def _job_lasts(self, summary: RunSummary, job: JobView | None) -> float:
        pace = pace_of(self.home)
        return pace.ending_job if is_about_to_end(summary, job) else pace.job

    def _lines(self) -> tuple[str, ...] | None:
        now = self._monotonic()
        if self._output is None or now - self._output[0] > _OUTPUT_SECONDS:
            self._output = now, last_lines(self.storage)
        return self._output[1]

    def forget_job(self) -> None:
        """Ask the platform at the next look: something was just started or ended."""
        with self._lock:
            self.commands += 1
            self._job = self._output = None
            self._lasts_until = 0.0


class OpenRuns:
    """The runs whose pages are open, the last few of them."""

    def __init__(self, homes: Homes) -> None:
        self._homes = homes
        self._runs: OrderedDict[str, OpenRun] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, home: object) -> OpenRun:
        """The run in `home`. Raises BadInput if it isn't one of those that the page was given."""
        address = self._homes.found(home)
        with self._lock:
            if address not in self._runs:
                self._runs[address] = OpenRun(address, open_storage(address, self._homes.s3))
            self._runs.move_to_end(address)
            while len(self._runs) > _RUNS_KEPT:
                self._runs.popitem(last=False)
            return self._runs[address]

    def forget_job(self, home: str) -> None:
        """Something was just done about the run in `home`: its open page, if there is one, looks at everything."""
        with self._lock:
            run = self._runs.get(home)
        if run is not None:
            run.forget_job()
