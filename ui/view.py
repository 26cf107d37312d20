"""What the pages say of a run: pure functions from what was read to states, sentences and rows. No I/O, no HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from dreambooth_resume.errors import AccessDenied, BadInput, Fenced, RefusedToGoOn, StoppedOnPurpose
from dreambooth_resume.launch.base import JobState
from dreambooth_resume.runs.holder import SILENCE_SECONDS
from dreambooth_resume.runs.registry import FoundRun
from dreambooth_resume.runs.summary import RESTARTED_EXIT_CODES, RunSummary
from dreambooth_resume.workflows.one_launch import STARTING_SECONDS

UiState = Literal[
    "running", "saving", "starting", "resuming", "stalled", "waiting", "interrupted", "stopped", "failed", "finished",
    "unreadable",
]  # fmt: skip
"""`waiting`: its job has no machine yet. `stalled`: the process lives and gives no sign. `failed`: it ended with an
error that nobody restarts. All are derived each time from log, heartbeat, process and job, and stored nowhere."""

STATE_WORDS: dict[UiState, str] = {
    "running": "Running",
    "saving": "Saving",
    "starting": "Starting",
    "resuming": "Resuming",
    "stalled": "Stalled",
    "waiting": "Waiting for a machine",
    "interrupted": "Interrupted",
    "stopped": "Stopped",
    "failed": "Failed",
    "finished": "Finished",
    "unreadable": "Unreadable",
}
LIVE: tuple[UiState, ...] = ("running", "saving", "starting", "resuming", "stalled")
RESUMABLE: tuple[UiState, ...] = ("interrupted", "stopped", "failed")
SortKey = Literal["newest", "name", "state", "step", "cost"]

_AFTER_FIRST_START: dict[int, UiState] = {
    StoppedOnPurpose.exit_code: "stopped",
    **dict.fromkeys(RESTARTED_EXIT_CODES, "interrupted"),
}
"""After any other exit code it failed: no step is trained by then."""
_FAILED_EXIT_CODES = (BadInput.exit_code, AccessDenied.exit_code, RefusedToGoOn.exit_code, Fenced.exit_code)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """How the newest launch of a run stands."""

    launcher: str
    name: str
    state: JobState
    because: str
    last_exit: str | None = None
    exit_code: int | None = None
    """Of its supervisor, once that has ended and where somebody knows."""
    last_lines: tuple[str, ...] = ()
    """The end of its output, where a first start has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """What costs more than one look to know: it comes a moment after the rest."""

    interruptions: int
    cost: float | None
    effective_batch: int | None
    began_at: str | None
    job: JobView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run as the list and the head of its page show it. Moments are ISO 8601, UTC; the browser makes ages of them."""

    home: str
    name: str
    state: UiState
    because: str
    step: int
    steps: int | None
    samples_per_second: float | None
    seconds_left: float | None
    durable_step: int | None
    durable_at: str | None
    loss: float | None
    attempt: int | None
    interruptions: int | None
    cost: float | None
    began_at: str | None
    where: str
    alarm: str | None
    has_begun: bool = True
    """An attempt has begun to train; before that there is nothing to save."""

    @property
    def part(self) -> float:
        """How much is done, 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @property
    def is_resumable(self) -> bool:
        return self.state in RESUMABLE


def state_of(summary: RunSummary, job: JobView | None) -> UiState:
    """The one word for how a run stands."""
    if summary.state == "finished":
        return "finished"
    if summary.attempt is None:
        return _state_of_first_start(summary, job)
    if summary.is_live:
        if summary.beat_age_seconds is not None and summary.beat_age_seconds >= SILENCE_SECONDS:
            return "stalled"
        if summary.state == "running":
            return "saving" if summary.phase == "saving" else "running"
        return "resuming" if summary.attempt > 1 or summary.durable_step else "starting"
    if job is not None and job.state == "waiting":
        return "waiting"
    if job is not None and job.state == "running":
        return "resuming"  # its supervisor lives, and starts the next attempt
    if summary.state == "stopped":
        return "failed" if summary.exit_code in _FAILED_EXIT_CODES else "stopped"
    return "interrupted"


def _state_of_first_start(summary: RunSummary, job: JobView | None) -> UiState:
    """Nothing is in the log yet, so only its job, and how long ago the last sign was, tell anything."""
    if job is not None and job.exit_code is not None:
        return _AFTER_FIRST_START.get(job.exit_code, "failed")
    if job is not None and job.state == "waiting":
        return "waiting"
    if summary.is_live or (job is not None and job.state == "running"):
        return "starting"
    if job is not None and job.state == "ended":
        return "interrupted"
    if summary.state == "launched" and (summary.beat_age_seconds or 0) < STARTING_SECONDS:
        return "starting"  # it is being launched at this moment, or only its own machine can tell
    return "interrupted" if job is None else "stalled"


def sentence(summary: RunSummary, job: JobView | None) -> str:
    """Why it is in this state, in one sentence."""
    if summary.attempt is None and summary.state != "finished":
        return _first_sentence(summary, job)
    state = state_of(summary, job)
    at = f"attempt {summary.attempt}" if summary.attempt else "the first start"
    durable = f"step {summary.durable_step} is safe" if summary.durable_step else "nothing is saved yet"
    where = f" on {summary.process.host}" if summary.process is not None else ""
    if state in ("running", "saving"):
        return f"{_capital(at)} trains{where}; {durable}."
    if state in ("starting", "resuming"):
        goes_on = f", from step {summary.durable_step}" if summary.durable_step else ""
        return f"{_capital(at)} is being started{where}{goes_on}: {job.because if job else summary.because}."
    if state == "stalled":
        age = summary.beat_age_seconds or 0
        return f"{_capital(at)}{where} has given no sign for {span(age)}; {durable}."
    if state == "waiting" and job is not None:
        return f"{_capital(job.because)}; {durable}."
    if state == "finished":
        return f"All {summary.max_train_steps or summary.step:,} steps are trained."
    if state == "stopped" and summary.exit_code == StoppedOnPurpose.exit_code:
        return f"Stopped on purpose ({summary.because}); {durable}."
    if state == "failed":
        because = job.last_exit if job is not None and job.last_exit else summary.because
        return f"Nobody restarts it: {because}; {durable}."
    return f"{_capital(at)} ended: {summary.because}; {durable}, and Resume goes on from there."


def _first_sentence(summary: RunSummary, job: JobView | None) -> str:
    state, because = state_of(summary, job), job.because if job is not None else summary.because
    if state == "waiting":
        return f"{_capital(because)}; it has not begun."
    if state == "starting":
        return f"The first start is on its way: {because}."
    if state == "failed":
        return f"The first start failed: {why_it_failed(job) if job else because}."
    if state == "stopped":
        return f"Stopped before it began ({because})."
    if state == "stalled":
        return f"It was launched {span(summary.beat_age_seconds)} ago and has written nothing since: {because}."
    if job is None and summary.state == "launched":
        because = "who launched it ended before it could say where; nobody knows whether a job runs"
    return f"The first start ended without a step: {because}."


def why_it_failed(job: JobView) -> str:
    """What was wrong, in the words of the program that ended: its last error, else its last line."""
    errors = [line for line in job.last_lines if line.startswith("dbr: ")]
    said = job.last_exit or next((line for line in reversed(errors or job.last_lines) if line.strip()), "")
    return said.rpartition("dbr: ")[2].strip().rstrip(".") or job.because


def row_of(found: FoundRun, detail: RunDetail | None, *, now: datetime) -> RunRow:
    """One run in a line; `detail` is None until it was read, and `now` is the moment of the summary."""
    summary = found.summary
    name = found.home.rstrip("/").rpartition("/")[2] or found.home
    if summary is None:
        return RunRow(
            home=found.home, name=name, state="unreadable", because=found.problem or "", step=0, steps=None,
            samples_per_second=None, seconds_left=None, durable_step=None, durable_at=None, loss=None, attempt=None,
            interruptions=None, cost=None, began_at=None, where="", alarm=None,
        )  # fmt: skip
    job = detail.job if detail else None
    began_at = detail.began_at if detail else None
    if summary.state == "launched":
        began_at = _moment(now, summary.beat_age_seconds)
    where = summary.process.host if summary.process is not None else job.launcher if job is not None else ""
    return RunRow(
        home=found.home,
        name=name,
        state=state_of(summary, job),
        because=sentence(summary, job),
        step=summary.step,
        steps=summary.max_train_steps,
        samples_per_second=summary.samples_per_second,
        seconds_left=_seconds_left(summary, detail.effective_batch if detail else None),
        durable_step=summary.durable_step,
        durable_at=_moment(now, summary.durable_age_seconds),
        loss=summary.loss,
        attempt=summary.attempt,
        interruptions=detail.interruptions if detail else None,
        cost=detail.cost if detail else None,
        began_at=began_at,
        where=where,
        alarm=summary.alarm,
        has_begun=summary.attempt is not None,
    )


def chosen_rows(rows: Sequence[RunRow], *, words: str, state: str, sort: SortKey) -> list[RunRow]:
    """Those whose name, home, place or state has every one of `words`, sorted; `state` is `all`, `live`, or a state."""
    wanted = words.casefold().split()
    kept = [
        row
        for row in rows
        if all(word in f"{row.home} {row.where} {STATE_WORDS[row.state]}".casefold() for word in wanted)
        and (state == "all" or row.state == state or (state == "live" and row.is_live))
    ]
    order = list(STATE_WORDS)
    if sort == "name":
        return sorted(kept, key=lambda row: row.home)
    if sort == "state":
        return sorted(kept, key=lambda row: (order.index(row.state), row.home))
    if sort == "step":
        return sorted(kept, key=lambda row: (-row.part, row.home))
    if sort == "cost":
        return sorted(kept, key=lambda row: (-(row.cost or 0.0), row.home))
    # What moves comes first, then what was saved last.
    newest = sorted(kept, key=lambda row: row.durable_at or row.began_at or "", reverse=True)
    return sorted(newest, key=lambda row: not row.is_live)


def counted(rows: Sequence[RunRow]) -> str:
    """`12 runs: 2 live, 1 failed`."""
    live = sum(row.is_live for row in rows)
    bad = sum(row.state in ("failed", "stalled", "unreadable") for row in rows)
    parts = [*([f"{live} live"] if live else []), *([f"{bad} to look at"] if bad else [])]
    return f"{len(rows):,} run{'' if len(rows) == 1 else 's'}" + (f": {', '.join(parts)}" if parts else "")


def span(seconds: float | None) -> str:
    """`40 s`, `12 min`, `3 h 20 min`, `2 days`; empty if unknown."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    return f"{hours // 24} days"


def money(dollars: float | None) -> str:
    """`$1.24`, `<$0.01`; empty if unknown."""
    if dollars is None:
        return ""
    return "<$0.01" if 0 < dollars < 0.01 else f"${dollars:,.2f}"


def _moment(now: datetime, age_seconds: float | None) -> str | None:
    return None if age_seconds is None else (now - timedelta(seconds=age_seconds)).isoformat(timespec="seconds")


def _seconds_left(summary: RunSummary, effective_batch: int | None) -> float | None:
    if not (summary.samples_per_second and summary.max_train_steps and effective_batch):
        return None
    return max(0, summary.max_train_steps - summary.step) * effective_batch / summary.samples_per_second


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
