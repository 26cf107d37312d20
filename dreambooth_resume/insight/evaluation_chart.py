"""The scores over steps as a chart, alone or in a report."""

from __future__ import annotations

from collections.abc import Sequence

from dreambooth_resume.insight.evaluation import METRICS, Evaluation, rows_of
from dreambooth_resume.insight.page import paragraph, scrolled, section, table
from dreambooth_resume.insight.svg import Line, Mark, line_chart

_STYLES = {"dino": "main", "clip-i": "held", "clip-t": "other"}


def score_chart(evaluation: Evaluation) -> str:
    """Cosine similarities over steps, and a mark at the best; the loss is in the table, since its scale is another."""
    lines = [
        Line(
            points=[(float(one.step), one.values[metric]) for one in evaluation.scores if metric in one.values],
            style=style,
            label=metric,
        )
        for metric, style in _STYLES.items()
    ]
    best = evaluation.best
    marks = [Mark(x=best.step, title=f"the best: step {best.step}", style="mark")] if best else []
    return line_chart(lines, name="fidelity over steps", marks=marks)


def evaluation_sections(evaluations: Sequence[Evaluation]) -> list[str]:
    """For the report: what was found, in one section for each evaluation."""
    found = []
    for evaluation in evaluations:
        recipe, best = evaluation.recipe, evaluation.best
        words = f"{recipe.pictures_made} pictures of {len(recipe.prompts)} prompts for each checkpoint."
        if best is not None:
            words += f" The best is {best.folder} (subject times prompt fidelity)."
        warned = evaluation.over_fitting
        found.append(
            section(
                "Fidelity",
                paragraph(words),
                paragraph(f"{warned[0].upper()}{warned[1:]}.", style="bad") if warned else "",
                scrolled(score_chart(evaluation)),
                table(rows_of(evaluation), head=("step", *METRICS, "")),
            )
        )
    return found
