"""All that a home alone tells of a run, read once: for the report, for comparing two runs, and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from pydantic import JsonValue

from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.insight.trends import Remark, rate_setting, remarks_on
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.checkpoints import CheckpointInfo, list_checkpoints
from dreambooth_resume.runs.curves import Curve, read_curve
from dreambooth_resume.runs.entries import Adopt, Totals
from dreambooth_resume.runs.history import Attempt, HistoryTotals, read_history, totals_of
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.notes import Note, read_notes
from dreambooth_resume.runs.record import RunRecord, read_record
from dreambooth_resume.runs.samples import SampleSet, read_samples
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.storage.base import Storage

_NEWEST_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One judgement. `is_good` is None for what is merely so."""

    about: str
    told: str
    is_good: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run as its home has it at one moment."""

    home: str
    record: RunRecord
    summary: RunSummary
    options: Mapping[str, JsonValue]
    """As they hold now, with what was changed on resumes."""
    attempts: tuple[Attempt, ...]
    totals: HistoryTotals
    curve: Curve
    checkpoints: tuple[CheckpointInfo, ...]
    samples: tuple[SampleSet, ...]
    notes: tuple[Note, ...]
    remarks: tuple[Remark, ...]
    verdicts: tuple[Verdict, ...]
    weights_sha256: str | None
    """Of the result; None while there is none."""

    @property
    def name(self) -> str:
        return self.home.rstrip("/").rpartition("/")[2] or self.home

    @property
    def newest_loss(self) -> float | None:
        """The mean over the newest hundred steps: one step's loss is mostly chance."""
        losses = [point.loss for point in self.curve.points[-_NEWEST_STEPS:]]
        return fmean(losses) if losses else None

    @property
    def lowest_val_loss(self) -> tuple[int, float] | None:
        """Step and value of the lowest loss on held-out pictures."""
        found = [(point.val_loss, point.step) for point in self.curve.points if point.val_loss is not None]
        return (min(found)[1], min(found)[0]) if found else None

    @property
    def other_than_default(self) -> dict[str, tuple[JsonValue, object]]:
        """Options that aren't what they are if nobody says anything: value, and the default."""
        return {
            name: (value, OPTIONS[name].default)
            for name, value in self.options.items()
            if name in OPTIONS and value != OPTIONS[name].default
        }


def read_facts(storage: Storage) -> RunFacts | None:
    """The run in `storage`; None if there certainly is none. Raises RefusedToGoOn for a damaged log or record."""
    record = read_record(storage)
    summary = summarise(storage)
    if record is None or summary is None:
        return None
    log = read_log(storage)
    attempts, curve = read_history(storage, log=log), read_curve(storage, log=log)
    options = {**record.options, **(log.last.state.changed_options if log.last else {})}
    return RunFacts(
        home=storage.describe(),
        record=record,
        summary=summary,
        options=options,
        attempts=attempts,
        totals=totals_of(attempts, log.last.state.totals if log.last else Totals()),
        curve=curve,
        checkpoints=list_checkpoints(log),
        samples=read_samples(storage),
        notes=read_notes(storage),
        remarks=remarks_on(curve.points, rate_setting(options)),
        verdicts=verdicts_on(log, attempts, summary),
        weights_sha256=_weights_sha256(log),
    )


def verdicts_on(log: Log, attempts: tuple[Attempt, ...], summary: RunSummary) -> tuple[Verdict, ...]:
    """What the log says for and against the run."""
    return (
        _exactness(log),
        _work_lost(summary),
        *(
            Verdict(about="checkpoints", told=f"{aside.folder} was set aside: {aside.reason}", is_good=False)
            for attempt in attempts
            for aside in attempt.set_aside
        ),
        *(
            Verdict(about="numbers", told=f"{skip.why} at step {skip.last + 1}: other samples since", is_good=False)
            for skip in summary.skipped
        ),
        *(
            Verdict(about="alarm", told=told, is_good=False)
            for told in ([summary.alarm] if summary.alarm and summary.is_live else [])
        ),
    )


def _exactness(log: Log) -> Verdict:
    """Is what there is now what an undisturbed run on the first machine would have?"""
    because: list[str] = []
    for entry in log.entries:
        if not isinstance(entry.body, Adopt):
            continue
        named = f"attempt {entry.attempt}"
        because += [f"{named}: {reason}" for reason in entry.body.not_exact_because]
        because += [f"{named}: {change.name} was changed" for change in entry.body.changes if change.changes_the_result]
    if log.last is not None and (smaller := log.last.state.smaller_micro_batch) is not None:
        because.append(f"since step {smaller.from_step + 1} {smaller.size} at once, for want of memory")
    if not because:
        told = "exact: every attempt computed with the device, libraries and threads of the first"
        return Verdict(about="exactness", told=told, is_good=True)
    return Verdict(about="exactness", told=f"equivalent, not bit for bit: {'; '.join(dict.fromkeys(because))}")


def _work_lost(summary: RunSummary) -> Verdict:
    steps, again = summary.steps_trained, summary.redone_steps
    if not again:
        return Verdict(about="work lost", told="no step was trained twice", is_good=True)
    return Verdict(about="work lost", told=f"{again:,} of {steps:,} steps were trained twice ({again / steps:.1%})")


def _weights_sha256(log: Log) -> str | None:
    if log.finished is None:
        return None
    try:
        return ref_of(log, log.finished.checkpoint).file_named(WEIGHTS_NAME).sha256
    except KeyError:
        return None
