"""A run's loss over all its attempts, as a picture: what counts, what was lost, and every interruption."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dreambooth_resume.runs.curves import Curve, CurvePoint, Interruption, Span

matplotlib.use("Agg")

INK, PALE, GRID, LOST = "#1a202c", "#718096", "#e2e8f0", "#c53030"
ATTEMPT_COLOURS = ("#2b6cb0", "#2f855a", "#b7791f", "#6b46c1", "#0987a0", "#97266d")
_ROW_INCHES, _ROWS_MAX_INCHES, _LOSS_INCHES, _WIDTH_INCHES, _DPI = 0.3, 3.0, 3.6, 10.0, 130
_LABELLED_ROWS_MAX = 12
_LEGEND, _LEGEND_OF_LOST = "dashed: an interruption    shaded: trained again", "    broad and faint: what was lost"


def draw_loss_curve(curve: Curve, *, title: str) -> bytes:
    """A PNG: on top a bar for each attempt over the steps it trained, below the loss of the stitched run.

    Raises ValueError if the curve holds no point.
    """
    if not curve.points:
        raise ValueError("there is no step to draw yet")
    rows_inches = min(_ROWS_MAX_INCHES, _ROW_INCHES * len(curve.spans) + 0.15)
    figure = Figure(figsize=(_WIDTH_INCHES, rows_inches + _LOSS_INCHES + 1.1), dpi=_DPI, layout="constrained")
    attempts, loss = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [rows_inches, _LOSS_INCHES], "hspace": 0.02}
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    last = max([curve.max_train_steps, *(span.reached_step for span in curve.spans)])
    _draw_attempts(attempts, curve, last=last)
    _draw_loss(loss, curve)
    loss.set_xlim(-0.01 * last, 1.02 * last)
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor="white")
    return png.getvalue()


def _colour(spans: Sequence[Span], attempt: int) -> str:
    place = next((index for index, span in enumerate(spans) if span.attempt == attempt), 0)
    return ATTEMPT_COLOURS[place % len(ATTEMPT_COLOURS)]


def _draw_attempts(axes: Axes, curve: Curve, *, last: int) -> None:
    """A bar an attempt; the hatched end was trained again by the next one."""
    cuts = {cut.attempt: cut for cut in curve.interruptions}
    is_labelled = len(curve.spans) <= _LABELLED_ROWS_MAX
    for row, span in enumerate(curve.spans):
        colour = _colour(curve.spans, span.attempt)
        _bar(axes, -row, span.base_step, span.reached_step, color=colour, alpha=0.3)
        if (cut := cuts.get(span.attempt)) is None:
            continue
        if cut.reached_step > cut.resumed_step:
            _bar(axes, -row, cut.resumed_step, cut.reached_step, fill=False, hatch="//////", edgecolor=colour)
        is_lost = cut.exit_code is None
        axes.plot(
            [cut.reached_step],
            [-row],
            marker="x" if is_lost else "o",
            color=LOST if is_lost else colour,
            markersize=7,
            markeredgewidth=2.2,
            clip_on=False,
        )
        if is_labelled:
            _write_ending(axes, cut, span, -row, to_the_left=cut.reached_step > 0.65 * last)
    axes.set_yticks([-row for row in range(len(curve.spans))], [f"attempt {span.attempt}" for span in curve.spans])
    for label, span in zip(axes.get_yticklabels(), curve.spans, strict=True):
        label.set(color=_colour(curve.spans, span.attempt), fontweight="bold", fontsize=9.5, visible=is_labelled)
    axes.set_ylim(-len(curve.spans) + 0.5, 0.5)
    axes.tick_params(length=0, labelbottom=False)
    axes.set_frame_on(False)


def _bar(axes: Axes, row: float, start: int, stop: int, **looks: Any) -> None:
    axes.barh(row, stop - start, left=start, height=0.62, linewidth=0, **looks)


def _write_ending(axes: Axes, cut: Interruption, span: Span, row: float, *, to_the_left: bool) -> None:
    """How an attempt ended, behind its bar, or before it where the picture ends."""
    is_lost = cut.exit_code is None
    how = f"lost at step {cut.reached_step}" if is_lost else f"saved step {cut.reached_step} and left"
    again = max(0, cut.reached_step - cut.resumed_step)
    axes.annotate(
        f"{how}, {again or 'no'} step{'' if again == 1 else 's'} again",
        (span.base_step if to_the_left else cut.reached_step, row),
        xytext=(-9 if to_the_left else 9, 0),
        textcoords="offset points",
        ha="right" if to_the_left else "left",
        va="center",
        fontsize=9,
        color=LOST if is_lost else INK,
    )


def _draw_loss(axes: Axes, curve: Curve) -> None:
    for cut in curve.interruptions:
        colour = LOST if cut.exit_code is None else PALE
        if cut.reached_step > cut.resumed_step:
            axes.axvspan(cut.resumed_step, cut.reached_step, color=colour, alpha=0.08, linewidth=0)
        axes.axvline(cut.reached_step, color=colour, linewidth=1.1, linestyle=(0, (3, 2)), alpha=0.8)
    for lost in curve.lost:
        axes.plot(*_line(lost), color=LOST, alpha=0.3, linewidth=4, solid_capstyle="round")
    for part in _by_attempt(curve.points):
        colour = _colour(curve.spans, part[-1].attempt)
        axes.plot(*_line(part), color=colour, alpha=0.6, linewidth=1.1, marker="o", markersize=2.2)
    smooth = _smooth(curve.points)
    axes.plot(*zip(*smooth, strict=True), color=INK, linewidth=2.2, solid_capstyle="round")
    axes.set_xlabel("step (optimizer updates)", color=INK)
    axes.set_ylabel("loss, and its running mean", color=INK)
    if curve.interruptions:
        legend = _LEGEND + (_LEGEND_OF_LOST if curve.lost else "")
        axes.set_title(legend, loc="right", fontsize=8.5, color=PALE, pad=4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)


def _line(points: Sequence[CurvePoint]) -> tuple[list[int], list[float]]:
    return [point.step for point in points], [point.loss for point in points]


def _by_attempt(points: Sequence[CurvePoint]) -> list[list[CurvePoint]]:
    """The points attempt by attempt, each beginning with the last of the one before, so that the line has no gap."""
    parts: list[list[CurvePoint]] = []
    for point in points:
        if not parts or parts[-1][-1].attempt != point.attempt:
            parts.append([parts[-1][-1]] if parts else [])
        parts[-1].append(point)
    return parts


def _smooth(points: Sequence[CurvePoint]) -> list[tuple[int, float]]:
    """A centred running mean over a tenth of the steps: one step's loss says little, it depends on its timestep."""
    finite = [point for point in points if math.isfinite(point.loss)]
    reach = max(4, len(finite) // 20)
    sums = [0.0]
    for point in finite:
        sums.append(sums[-1] + point.loss)
    smooth: list[tuple[int, float]] = []
    for index, point in enumerate(finite):
        # The window shrinks towards both ends, so that it stays centred.
        half = min(reach, index, len(finite) - 1 - index)
        smooth.append((point.step, (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)))
    return smooth
