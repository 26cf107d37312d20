"""Draws how-resume-works.png beside this file: one run of 30 steps, a kill, a notice, three attempts and the log.

Run it again after a change: .venv/bin/python docs/draw_how_resume_works.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

COLOURS = ("#2b6cb0", "#2f855a", "#b7791f")
INK, PALE, ALARM = "#1a202c", "#718096", "#c53030"

# (name, step it began from, step it reached, steps it committed, how it ended)
ATTEMPTS = (
    ("attempt 1", 0, 13, (5, 10), "SIGKILL"),
    ("attempt 2", 10, 23, (15, 20, 23), "SIGTERM: saves, exit 75"),
    ("attempt 3", 23, 30, (25, 30), "finished, exit 0"),
)
# (attempt, what the entry says)
LOG = (
    (0, "adopt\nfrom 0"),
    (0, "check-\npoint 5"),
    (0, "check-\npoint 10"),
    (1, "adopt\nfrom 10"),
    (1, "check-\npoint 15"),
    (1, "check-\npoint 20"),
    (1, "check-\npoint 23"),
    (1, "stopped"),
    (2, "adopt\nfrom 23"),
    (2, "check-\npoint 25"),
    (2, "check-\npoint 30"),
    (2, "finished"),
)


def draw_attempts(axes: Axes) -> None:
    """A bar an attempt over the steps it trained; dots are commits, the hatched part was trained twice."""
    trained = 0
    for row, (name, start, stop, commits, ending) in enumerate(ATTEMPTS):
        y, colour = -row, COLOURS[row]
        axes.add_patch(Rectangle((start, y - 0.2), stop - start, 0.4, facecolor=colour, alpha=0.28, edgecolor="none"))
        if start < trained:
            axes.add_patch(
                Rectangle(
                    (start, y - 0.2), trained - start, 0.4, fill=False, hatch="////", edgecolor=colour, linewidth=0
                )
            )
            axes.text(start + 0.3, y + 0.27, f"{trained - start} steps again", fontsize=9, color=colour, va="bottom")
        axes.text(-0.6, y, name, ha="right", va="center", fontsize=10.5, color=colour, fontweight="bold")
        axes.plot(commits, [y] * len(commits), "o", color=colour, markersize=8)
        killed = ending == "SIGKILL"
        if killed:
            axes.plot([stop], [y], "x", color=ALARM, markersize=11, markeredgewidth=2.5)
        axes.text(stop + 0.6, y, ending, va="center", fontsize=10, color=ALARM if killed else INK)
        trained = stop
    axes.plot([10, 10], [-0.28, -0.72], color=PALE, linestyle=":", linewidth=1.2)
    axes.plot([23, 23], [-1.28, -1.72], color=PALE, linestyle=":", linewidth=1.2)
    axes.set(xlim=(-4.5, 36), ylim=(-2.5, 0.75), xticks=range(0, 31, 5), yticks=[])
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=9, colors=PALE)
    axes.set_title(
        "Steps. Each step's pictures, crops and noise are computed from (seed, step): nothing random is saved or lost.",
        fontsize=10.5,
        color=INK,
        loc="left",
        pad=8,
    )
    axes.set_frame_on(False)


def draw_log(axes: Axes) -> None:
    """The log's entries in order; each is written once, under the next free number."""
    for index, (attempt, text) in enumerate(LOG):
        box = FancyBboxPatch((index + 0.07, 0.0), 0.86, 1.0, boxstyle="round,pad=0,rounding_size=0.08", linewidth=1.3)
        box.set(facecolor="white", edgecolor=COLOURS[attempt])
        axes.add_patch(box)
        axes.text(index + 0.5, 0.82, str(index + 1), ha="center", va="center", fontsize=8, color=PALE)
        axes.text(index + 0.5, 0.4, text, ha="center", va="center", fontsize=9, color=COLOURS[attempt])
    axes.set(xlim=(-0.1, len(LOG) + 0.1), ylim=(-0.1, 1.1), xticks=[], yticks=[])
    axes.set_title(
        "The log. A checkpoint exists when its entry does; a number can be taken once, so a second writer is refused.",
        fontsize=10.5,
        color=INK,
        loc="left",
    )
    axes.set_frame_on(False)


def main() -> None:
    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(10, 4.6), height_ratios=(3.1, 1), layout="constrained")
    draw_attempts(upper)
    draw_log(lower)
    # No date and no version in the file: drawn again by the same libraries it is the same file.
    figure.savefig(
        Path(__file__).with_suffix("").with_name("how-resume-works.png"), dpi=110, metadata={"Software": None}
    )


if __name__ == "__main__":
    main()
