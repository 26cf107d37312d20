"""A verification as a picture: the lives of the run that was killed, both losses, and the verdict with its digests."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dreambooth_resume.runs.curves import CurvePoint
from dreambooth_resume.workflows.chart import ATTEMPT_COLOURS, GRID, INK, LOST, PALE
from dreambooth_resume.workflows.verify import Verified

matplotlib.use("Agg")

_EXACT, _WIDTH_INCHES, _DPI, _ROW_INCHES = "#2f855a", 10.0, 130, 0.3
_LINE_CHARACTERS = 108


def draw_verified(verified: Verified) -> bytes:
    """A PNG."""
    lines = _lines(verified)
    rows_inches = min(4.5, _ROW_INCHES * len(verified.lives) + 0.3)
    text_inches = 0.17 * len(lines) + 0.2
    figure = Figure(figsize=(_WIDTH_INCHES, rows_inches + text_inches + 3.6), dpi=_DPI, layout="constrained")
    lives, loss, text = figure.subplots(3, 1, gridspec_kw={"height_ratios": [rows_inches, 2.6, text_inches]})
    colour = _EXACT if verified.verdict.is_exact else LOST
    kills = f"{verified.kills} kill{'' if verified.kills == 1 else 's'}"
    title = f"Resume {verified.verdict.word}: steps {verified.base_step + 1} to {verified.until_step} with {kills}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold", color=colour)
    for axes in (lives, loss):
        axes.set_xlim(verified.base_step - 0.3, verified.until_step + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0, colors=PALE)
    _draw_lives(lives, verified)
    _draw_losses(loss, verified)
    text.axis("off")
    text.text(
        0.0, 1.0, "\n".join(lines), transform=text.transAxes, va="top", fontsize=8.5, family="monospace", color=INK
    )
    png = io.BytesIO()
    figure.savefig(png, format="png", facecolor="white")
    return png.getvalue()


def _draw_lives(axes: Axes, verified: Verified) -> None:
    """A bar for each process over the steps that it made."""
    for row, life in enumerate(verified.lives):
        colour = ATTEMPT_COLOURS[row % len(ATTEMPT_COLOURS)]
        axes.barh(-row, life.reached_step - life.began_step, left=life.began_step, height=0.6, color=colour, alpha=0.35)
        marker, marked = ("x", LOST) if life.is_killed else ("o", colour)
        axes.plot([life.reached_step], [-row], marker=marker, color=marked, markersize=7, clip_on=False)
        if life.is_killed and len(verified.lives) <= 12:
            axes.annotate(
                life.ended, (life.reached_step, -row), xytext=(9, 0), textcoords="offset points", va="center",
                fontsize=8.5, color=INK,
            )  # fmt: skip
    axes.set_yticks([-row for row in range(len(verified.lives))], [str(row + 1) for row in range(len(verified.lives))])
    axes.set_ylabel("start", color=INK)
    axes.spines["left"].set_visible(False)


def _draw_losses(axes: Axes, verified: Verified) -> None:
    """Where one curve hides the other, they are the same."""
    undisturbed, killed = verified.curves
    axes.plot(*_points(undisturbed.points, verified), color=PALE, alpha=0.5, linewidth=6, label="undisturbed")
    axes.plot(*_points(killed.points, verified), color=_EXACT, linewidth=1.6, marker="o", markersize=3, label="killed")
    if (difference := verified.comparison.difference) is not None:
        axes.axvline(difference.step, color=LOST, linestyle="--", linewidth=1.2, label="first difference")
    axes.set_xlabel("step (optimizer updates)", color=INK)
    axes.set_ylabel("loss", color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8.5, loc="upper right", ncols=3)


def _points(points: Sequence[CurvePoint], verified: Verified) -> tuple[list[int], list[float]]:
    within = [one for one in points if verified.base_step < one.step <= verified.until_step and math.isfinite(one.loss)]
    return [one.step for one in within], [one.loss for one in within]


def _lines(verified: Verified) -> list[str]:
    """The digests and the verdict's reasons, folded to the picture's width."""
    found, verdict = verified.comparison, verified.verdict
    lines = [f"SHA-256 at step {found.step}"]
    for file in found.files:
        lines.append(f"  {file.name:<34} undisturbed {file.first_sha256[:20]}   killed {file.second_sha256[:20]}")
    told = list(verdict.because)
    told += [f"likely cause: {verdict.cause}"] if verdict.cause else []
    told += [f"what to do: {verdict.fix}"] if verdict.fix else []
    for text in told:
        lines += textwrap.wrap(text, _LINE_CHARACTERS, subsequent_indent="  ")
    facts = verified.numerics
    lines.append(f"torch {facts.get('torch')} on {facts.get('device')}, {facts.get('device_name')}")
    return lines
