"""The parts of the page Compare as HTML. Pure but for the pictures, which are given as addresses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import quote

from dreambooth_resume.config.messages import plain
from dreambooth_resume.insight.facts import RunFacts
from dreambooth_resume.insight.side_by_side import Row, differing_inputs, differing_options, results
from dreambooth_resume.runs.samples import SampleSet
from dreambooth_resume.ui.markup import ago, chart_box, chip, empty, is_drawable, problem, run_link, table, text
from dreambooth_resume.ui.points import COLOURS, losses_together
from dreambooth_resume.ui.view import RunRow

RUNS_MAX = COLOURS
PROMPTS_SHOWN = 6
Address = Callable[[int, str, bool], str | None]
"""Where the browser finds a picture, by the run's place among those compared and its key; small or whole."""


def compare_link(homes: Sequence[str]) -> str:
    """The page's address for these runs."""
    return "compare?" + "&".join(f"home={quote(home, safe='')}" for home in homes)


def too_few(chosen: int, *, any_run: bool) -> str:
    """What is shown in place of a comparison."""
    if not any_run:
        return _part(empty("No run here yet", "There is something to compare once two runs have begun.", None))
    title = "Choose another one" if chosen else "Choose two runs"
    words = f"Up to {RUNS_MAX} are laid over each other; the address of this page then leads to the same comparison."
    return _part(empty(title, words, None))


def missing(home: str, words: str) -> str:
    """A run that can't be shown among the others."""
    return problem(f"{home}: {words}", "The others are compared without it.")


def head(runs: Sequence[RunFacts], rows: Sequence[RunRow | None], problems: Sequence[str]) -> str:
    """Which colour is which run, and how each stands."""
    names = names_of(runs)
    keys = "".join(
        f'<li><i class="key c{place}"></i>{run_link(row.home if row else run.home, name)}'
        f"{chip(row.state) if row else ''}<small class='dim'>step {run.summary.step:,}</small></li>"
        for place, (run, row, name) in enumerate(zip(runs, rows, names, strict=True))
    )
    return _part(f'{"".join(problems)}<ul class="keys">{keys}</ul>')


def losses(runs: Sequence[RunFacts]) -> str:
    """The losses over each other, and those on held-out pictures where there are any."""
    named = list(zip(names_of(runs), (run.curve for run in runs), strict=True))
    key = " ".join(run.home for run in runs)
    drawn = [
        chart_box(f"{key} {title}", title, points)
        for title, held_out in (("Loss, smoothed", False), ("Loss on held-out pictures", True))
        if is_drawable(points := losses_together(named, held_out=held_out))
    ]
    if not drawn:
        return _part(empty("Nothing is measured yet", "The curves begin with the first step.", None))
    hint = "Over the same steps, all attempts in one. Drag to zoom, double click for all; with the keyboard + − ← →."
    return _part("".join(drawn).replace('class="chart"', 'class="chart big"', 1) + f'<small class="dim">{hint}</small>')


def differences(runs: Sequence[RunFacts]) -> str:
    """Results of each, the options that differ, and what else they were not given alike."""
    names = names_of(runs)
    options, inputs = differing_options(runs), differing_inputs(runs)
    # How each stands is said beside its name, as on the other pages.
    came_out = [_row(row) for row in results(runs) if row.name != "state"]
    made = ["<h3>Results</h3>", table(("", *names), came_out)]
    made.append("<h3>Options that differ</h3>")
    if options:
        rows = [(*_row(row, marks=True), f'<span class="dim">{text(plain(row.default))}</span>') for row in options]
        made.append(table(("Option", *names, "Default"), rows))
    else:
        made.append('<p class="say">None: they were told the same.</p>')
    if inputs:
        made += ["<h3>Inputs and environment that differ</h3>", table(("", *names), [_row(row) for row in inputs])]
    return _part("".join(made))


def samples(runs: Sequence[RunFacts], address: Address) -> str:
    """The newest pictures of each run, a row a prompt."""
    newest = [run.samples[-1] if run.samples else None for run in runs]
    prompts = list(dict.fromkeys(prompt for one in newest if one is not None for prompt in one.prompts))
    if not prompts:
        return _part(empty("No pictures yet", "Set validation_prompt to have some made while a run trains.", None))
    head_ = ["Prompt", *names_of(runs)]
    rows = [["", *(_made(one) for one in newest)]]
    for prompt in prompts[:PROMPTS_SHOWN]:
        cells = [
            _cell(one, prompt, alt=run.name, address=partial(address, place))
            for place, (run, one) in enumerate(zip(runs, newest, strict=True))
        ]
        rows.append([text(prompt), *cells])
    more = len(prompts) - PROMPTS_SHOWN
    note = f'<small class="dim">{more} more prompts are on the pages of the runs.</small>' if more > 0 else ""
    return _part(f"<h3>Newest pictures</h3>{table(head_, rows, kind='beside')}{note}")


def names_of(runs: Sequence[RunFacts]) -> list[str]:
    """The runs' names; where two have the same, their homes."""
    names = [run.name for run in runs]
    return [run.home if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _row(row: Row, *, marks: bool = False) -> list[str]:
    cells = [text(plain(value)) if value is not None else '<span class="dim">–</span>' for value in row.values]
    if marks:
        cells = [
            f"<b>{cell}</b>" if value != row.default else cell for cell, value in zip(cells, row.values, strict=True)
        ]
    return [f"<code>{text(row.name)}</code>" if marks else text(row.name), *cells]


def _made(one: SampleSet | None) -> str:
    if one is None:
        return '<span class="dim">no pictures yet</span>'
    return f'<b class="num">step {one.step:,}</b> <small class="dim">{ago(one.made_at)}</small>'


def _cell(one: SampleSet | None, prompt: str, *, alt: str, address: Callable[[str, bool], str | None]) -> str:
    if one is None or prompt not in one.prompts:
        return '<span class="dim">–</span>'
    key = one.pictures[one.prompts.index(prompt)]
    small, whole = address(key, True), address(key, False)
    if not small or not whole:
        return problem("can't be read")
    said = text(f"{alt} at step {one.step}: {prompt}")
    return f'<a href="{text(whole)}" target="_blank"><img loading="lazy" src="{text(small)}" alt="{said}"></a>'


def _part(body: str) -> str:
    return f'<div class="dbr">{body}</div>'
