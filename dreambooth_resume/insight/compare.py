"""`dbr compare`: how two runs differ in what they were told, in their losses, and in what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from pydantic import JsonValue

from dreambooth_resume.config.messages import plain
from dreambooth_resume.insight.facts import RunFacts
from dreambooth_resume.insight.page import page, paragraph, scrolled, section, table
from dreambooth_resume.insight.report import loss_lines, val_loss_line
from dreambooth_resume.insight.side_by_side import Row, differing_inputs, differing_options, results
from dreambooth_resume.insight.svg import line_chart, text
from dreambooth_resume.runs.curves import CurvePoint

_STRETCHES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that isn't the same of both."""

    name: str
    first: JsonValue
    second: JsonValue
    default: JsonValue = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRow:
    """The mean losses of both runs over the same steps."""

    from_step: int
    to_step: int
    first: float | None
    second: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs side by side."""

    first: str
    second: str
    options: tuple[Difference, ...]
    inputs: tuple[Difference, ...]
    """Base model, pictures, seed, device and libraries."""
    losses: tuple[LossRow, ...]
    results: tuple[Difference, ...]
    """Facts of both, whether they are the same or not: state, steps, losses, time, cost."""
    same_bytes: bool | None
    """Whether both results are the same file; None while one of them isn't finished."""


def compare(first: RunFacts, second: RunFacts) -> Comparison:
    """How `second` differs from `first`."""
    shas = (first.weights_sha256, second.weights_sha256)
    return Comparison(
        first=first.home,
        second=second.home,
        options=tuple(map(_pair, differing_options((first, second)))),
        inputs=tuple(map(_pair, differing_inputs((first, second)))),
        losses=tuple(_loss_rows(first.curve.points, second.curve.points)),
        results=tuple(map(_pair, results((first, second)))),
        same_bytes=None if None in shas else shas[0] == shas[1],
    )


def verdict(comparison: Comparison) -> str:
    """In a sentence: are the results the same bytes?"""
    if comparison.same_bytes is None:
        return "Not both runs are finished, so there are no two results to compare byte by byte."
    if comparison.same_bytes:
        return "Both results are the same bytes."
    return "The results are different files."


def comparison_page(first: RunFacts, second: RunFacts) -> str:
    """The comparison as an HTML page, with both losses over each other."""
    found = compare(first, second)
    points = (first.curve.points, second.curve.points)
    lines = [
        *loss_lines(points[0], styles=("raw", "main"), name="A"),
        *loss_lines(points[1], styles=("rawother", "other"), name="B"),
    ]
    held = [
        val_loss_line(points[0], style="main", label="A: held-out pictures"),
        val_loss_line(points[1], style="other", label="B: held-out pictures"),
    ]
    head = ("", "A", "B")
    body = [
        f"<h1>{text(first.name)} and {text(second.name)}</h1>",
        paragraph(f"A is {first.home}, B is {second.home}.", style="pale"),
        paragraph(verdict(found)),
        section("Results", table([_shown(row) for row in found.results], head=head)),
        section(
            "Options that differ",
            table([(*_shown(row), plain(row.default)) for row in found.options], head=(*head, "default"))
            or paragraph("None."),
        ),
        section("Inputs and environment that differ", table([_shown(row) for row in found.inputs], head=head)),
        section("Loss", scrolled(line_chart(lines, name="loss of both runs over steps"))),
        section("Loss on held-out pictures", scrolled(line_chart(held, name="held-out loss of both runs"))),
    ]
    return page(f"{first.name} and {second.name}", body)


def _shown(row: Difference) -> tuple[str, str, str]:
    return row.name, plain(row.first), plain(row.second)


def _pair(row: Row) -> Difference:
    first, second = row.values
    return Difference(name=row.name, first=first, second=second, default=row.default)


def _loss_rows(first: Sequence[CurvePoint], second: Sequence[CurvePoint]) -> list[LossRow]:
    """Ten stretches of the steps that either run has."""
    last = max((point.step for point in (*first, *second)), default=0)
    edges = sorted({round(last * number / _STRETCHES) for number in range(_STRETCHES + 1)})
    return [
        LossRow(
            from_step=above + 1, to_step=up_to, first=_mean(first, above, up_to), second=_mean(second, above, up_to)
        )
        for above, up_to in pairwise(edges)
    ]


def _mean(points: Sequence[CurvePoint], above: int, up_to: int) -> float | None:
    losses = [point.loss for point in points if above < point.step <= up_to]
    return round(fmean(losses), 6) if losses else None
