"""`dbr report`: everything about one run in one HTML file, from its home alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import datetime

from PIL import Image, UnidentifiedImageError

from dreambooth_resume.config.messages import plain
from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.insight.facts import RunFacts, Verdict
from dreambooth_resume.insight.page import folded, page, paragraph, scrolled, section, table, tiles
from dreambooth_resume.insight.series import XY, downsampled, smoothed, smoothing_weight
from dreambooth_resume.insight.svg import Bar, Line, Mark, bar_chart, line_chart, text
from dreambooth_resume.runs.curves import CurvePoint
from dreambooth_resume.runs.history import Attempt
from dreambooth_resume.runs.samples import SampleSet
from dreambooth_resume.storage.base import Storage

CHART_POINTS = 600
_SETS, _PICTURES_OF_A_SET, _PICTURE_SIDE = 8, 4, 384
_BARS = 40
_LARGEST_PICTURE_BYTES = 64 * 1024 * 1024
_ENDING_STYLES = {"finished": "good", "running": "main", "lost": "bad"}


def report(storage: Storage, facts: RunFacts, *, extra: Sequence[str] = ()) -> str:
    """The page. `extra` are sections of HTML that stand behind the verdicts. Reads the pictures, and nothing else."""
    summary = facts.summary
    how_far = f"step {summary.step:,} of {summary.max_train_steps or 0:,}"
    body = [
        f"<h1>{text(facts.name)}</h1>",
        paragraph(f"{summary.state}: {how_far}; {summary.because}"),
        paragraph(
            f"{facts.home}, run {facts.record.run_id}, begun {_moment(facts.record.created_at)} UTC", style="pale"
        ),
        tiles(_numbers(facts)),
        section("Verdicts", _verdicts(facts)),
        *extra,
        section("Loss", *_loss(facts)),
        section("Pictures", _pictures(storage, facts.samples)),
        section("Timeline", scrolled(_timeline(facts.attempts)), _attempts(facts.attempts)),
        section("Options", *_options(facts)),
        section("Learning rate, gradient and speed", *_other_curves(facts)),
        section("Checkpoints", _checkpoints(facts)),
        section("Environment", _environment(facts)),
    ]
    return page(f"{facts.name}: {summary.state}", body)


def loss_lines(points: Sequence[CurvePoint], *, styles: tuple[str, str], name: str = "") -> list[Line]:
    """Each step's loss, thin, and its running mean; both thinned out to what a chart can show."""
    raw: list[XY] = [(float(point.step), point.loss) for point in points]
    mean = smoothed(raw, smoothing_weight(len(raw)))
    prefix = f"{name}: " if name else ""
    if len(raw) < 30:
        return [Line(points=raw, style=styles[1], label=f"{prefix}loss")]
    return [
        Line(points=downsampled(raw, CHART_POINTS), style=styles[0], label=f"{prefix}each step"),
        Line(points=downsampled(mean, CHART_POINTS), style=styles[1], label=f"{prefix}running mean"),
    ]


def val_loss_line(points: Sequence[CurvePoint], *, style: str, label: str) -> Line:
    measured = [(float(point.step), point.val_loss) for point in points if point.val_loss is not None]
    return Line(points=downsampled(measured, CHART_POINTS), style=style, label=label if measured else None)


def _numbers(facts: RunFacts) -> list[tuple[str, object]]:
    totals = facts.totals
    found: list[tuple[str, object]] = [("steps durable", f"{facts.summary.durable_step or 0:,}")]
    if facts.newest_loss is not None:
        found.append(("loss, newest steps", f"{facts.newest_loss:.4f}"))
    if (lowest := facts.lowest_val_loss) is not None:
        found.append((f"lowest held-out loss, step {lowest[0]:,}", f"{lowest[1]:.4f}"))
    found += [
        ("attempts", totals.attempts),
        ("interruptions", totals.interruptions),
        ("steps trained twice", f"{totals.redone_steps:,}"),
        ("of machine time", span(totals.machine_seconds)),
    ]
    if totals.cost is not None:
        found.append(("cost", f"${totals.cost:.2f}"))
    if totals.cost is not None and totals.on_demand_cost:
        found.append(
            (f"on demand, so {1.0 - totals.cost / totals.on_demand_cost:.0%} saved", f"${totals.on_demand_cost:.2f}")
        )
    return found


def _verdicts(facts: RunFacts) -> str:
    verdicts = [*facts.verdicts]
    verdicts += [Verdict(about="look", told=f"{one.told}. Try: {one.to_try}") for one in facts.remarks]
    verdicts += [
        Verdict(about=note.kind, told=note.text, is_good=False) for note in facts.notes if note.kind == "damage"
    ]
    return "".join(
        f'<p><b class="{_STYLE_OF[verdict.is_good]}">{text(verdict.about)}</b> {text(verdict.told)}</p>'
        for verdict in verdicts
    )


_STYLE_OF = {True: "good", False: "bad", None: "pale"}


def _loss(facts: RunFacts) -> list[str]:
    curve = facts.curve
    lines = [
        *loss_lines(curve.points, styles=("raw", "main")),
        val_loss_line(curve.points, style="held", label="held-out pictures"),
    ]
    for place, part in enumerate(curve.lost):
        lost = downsampled([(float(point.step), point.loss) for point in part], CHART_POINTS)
        lines.append(Line(points=lost, style="lost", label="trained again" if place == 0 else None))
    marks = [
        Mark(x=cut.reached_step, title=f"attempt {cut.attempt} ended at step {cut.reached_step}: {cut.reason}")
        for cut in curve.interruptions
    ]
    chart = line_chart(lines, name="loss over steps", marks=marks, x_to=curve.max_train_steps or None)
    cuts = [
        f"attempt {cut.attempt} came to step {cut.reached_step:,} and the run went on from {cut.resumed_step:,}"
        for cut in curve.interruptions
    ]
    words = f"Dashed: {'; '.join(cuts)}." if cuts else ""
    return [scrolled(chart), paragraph(words, style="pale") if words and chart else ""]


def _other_curves(facts: RunFacts) -> list[str]:
    points = facts.curve.points
    rates = [(float(point.step), point.learning_rate) for point in points if point.learning_rate is not None]
    norms = [(float(point.step), point.grad_norm) for point in points if point.grad_norm is not None]
    seconds = [(float(point.step), point.seconds) for point in points if point.seconds is not None]
    found = []
    for name, series in (("learning rate", rates), ("gradient norm", norms), ("seconds a step", seconds)):
        thin = downsampled(series, CHART_POINTS)
        found.append(scrolled(line_chart([Line(points=thin, style="main")], name=name), name))
    return found


def _pictures(storage: Storage, sets: Sequence[SampleSet]) -> str:
    figures = []
    for one in _spread(sets, _SETS):
        for key, prompt in list(zip(one.pictures, one.prompts, strict=True))[:_PICTURES_OF_A_SET]:
            uri = _small(storage, key)
            shown = f'<img alt="{text(prompt)}" src="{uri}">' if uri else "<p>can't be read</p>"
            kind = ", the result" if one.is_final else ""
            figures.append(
                f"<figure>{shown}<figcaption>step {one.step:,}{kind}<br>{text(prompt)}</figcaption></figure>"
            )
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _spread(sets: Sequence[SampleSet], at_most: int) -> list[SampleSet]:
    """The first, the last, and others evenly between."""
    if len(sets) <= at_most:
        return list(sets)
    return [sets[round(place * (len(sets) - 1) / (at_most - 1))] for place in range(at_most)]


def _small(storage: Storage, key: str) -> str | None:
    """The picture as part of the page, no larger than a page needs; None for what is no picture any more."""
    try:
        body = storage.read(key)
        if len(body) > _LARGEST_PICTURE_BYTES:
            return None
        with Image.open(io.BytesIO(body)) as picture:
            picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
            written = io.BytesIO()
            picture.convert("RGB").save(written, "JPEG", quality=85)
    except (KeyNotFound, UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def _timeline(attempts: Sequence[Attempt]) -> str:
    """When each attempt ran; what lies between is waiting."""
    moments = [(attempt, _time(attempt.began_at), _time(attempt.ended_at)) for attempt in attempts]
    known = [
        (attempt, begin, end if end is not None else begin + attempt.machine_seconds)
        for attempt, begin, end in moments
        if begin is not None
    ][-_BARS:]
    if not known:
        return ""
    first, last = min(begin for _, begin, _ in known), max(end for _, _, end in known)
    unit, divisor = _unit(last - first)
    bars = [
        Bar(
            label=f"attempt {attempt.number}",
            start=(begin - first) / divisor,
            end=(end - first) / divisor,
            style=_ENDING_STYLES.get(attempt.ending, "warn"),
            title=f"{attempt.process.host}: steps {attempt.base_step} to {attempt.reached_step}; {attempt.reason}",
        )
        for attempt, begin, end in known
    ]
    return bar_chart(bars, name="when each attempt ran", unit=unit)


def _attempts(attempts: Sequence[Attempt]) -> str:
    rows = [
        (
            attempt.number,
            _moment(attempt.began_at),
            attempt.process.host,
            f"{attempt.base_step:,} to {attempt.reached_step:,}",
            attempt.redone_steps or "",
            attempt.ending,
            "" if attempt.exit_code is None else attempt.exit_code,
            "" if attempt.price is None else f"${attempt.machine_seconds / 3600.0 * attempt.price.per_hour:.2f}",
            attempt.reason,
        )
        for attempt in attempts
    ]
    return table(rows, head=("", "began (UTC)", "machine", "steps", "again", "ended", "exit", "cost", "why"))


def _options(facts: RunFacts) -> list[str]:
    other = [
        (name, plain(value), "" if default is None else plain(default))
        for name, (value, default) in facts.other_than_default.items()
    ]
    changed = [
        (f"attempt {attempt.number}", change.name, plain(change.before), plain(change.after))
        for attempt in facts.attempts
        for change in attempt.changes
    ]
    everything = [(name, plain(value)) for name, value in facts.options.items()]
    return [
        table(other, head=("option", "value", "default")),
        table(changed, head=("changed by", "option", "before", "after")),
        folded(f"all {len(everything)} options", table(everything)),
    ]


def _checkpoints(facts: RunFacts) -> str:
    rows = [
        (
            info.folder,
            f"{info.step:,}",
            _moment(info.committed_at),
            f"{info.size_bytes / 1e6:,.1f} MB",
            info.state,
            "the result" if info.is_result else info.note or info.reason,
        )
        for info in facts.checkpoints
    ]
    shown = [row for row in rows if row[4] != "retired"]
    return table(shown, head=("", "step", "committed (UTC)", "size", "", "")) + folded(
        f"{len(rows) - len(shown)} retired", table([row for row in rows if row[4] == "retired"])
    )


def _environment(facts: RunFacts) -> str:
    pins = facts.record.pins
    rows: list[tuple[object, object]] = [
        *facts.record.numerics.items(),
        ("seed", facts.record.seed),
        ("samples a step", facts.record.effective_batch),
        ("base model's commit", pins.base_commit or ""),
        *((f"base model, {name}", digest) for name, digest in pins.base_model.items()),
        ("pictures", pins.dataset),
        ("machines", ", ".join(dict.fromkeys(attempt.process.host for attempt in facts.attempts))),
        ("SHA-256 of the result", facts.weights_sha256 or ""),
    ]
    return table([(name, value) for name, value in rows if value != ""])


def span(seconds: float) -> str:
    """`14 s`, `4 min`, `3.2 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _unit(seconds: float) -> tuple[str, float]:
    if seconds < 300:
        return "s", 1.0
    return ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)


def _moment(moment: str) -> str:
    return moment.replace("T", " ").removesuffix("+00:00")


def _time(moment: str | None) -> float | None:
    try:
        return None if moment is None else datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None
