"""The page Compare, `/compare?home=…&home=…`: runs over each other, what was told to them, and what they draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.insight.facts import RunFacts
from dreambooth_resume.ui import compare_parts
from dreambooth_resume.ui.compared import Compared
from dreambooth_resume.ui.open_run import OpenRun
from dreambooth_resume.ui.site import PRIVATE, Site, html_part, navbar, sample_url

_PARTS = ("head", "losses", "samples", "differences")
_INTERVAL_SECONDS = 5.0
_WAIT = '<div class="dbr"><div class="skeleton" role="status" aria-label="Reading the runs"></div></div>'
_ADDRESS = """(homes) => {
  const words = (homes || []).map((home) => 'home=' + encodeURIComponent(home)).join('&');
  history.replaceState(history.state, '', window.location.pathname + (words ? '?' + words : ''));
}"""
"""The address follows the choice, so that it can be sent to somebody or kept."""


def build(site: Site) -> None:
    """Puts the page into the Blocks that are open."""
    navbar()
    compared = Compared()
    html_part('<div class="dbr top"><h2>Compare</h2></div>')
    picked = gr.Dropdown(
        [], value=[], multiselect=True, max_choices=compare_parts.RUNS_MAX, label="Runs to compare", elem_id="picked",
        allow_custom_value=True,
    )  # fmt: skip
    made = {part: html_part(_WAIT if part == "head" else "", elem_id=part) for part in _PARTS}
    seen, timer = gr.State({}), gr.Timer(_INTERVAL_SECONDS)
    outputs = [*made.values(), seen]

    def show(homes: Sequence[str] | None, before: dict[str, str]) -> list[Any]:
        now = _parts(site, compared, homes or ())
        changed = [gr.skip() if before.get(part) == now[part] else now[part] for part in _PARTS]
        return [*changed, now if now != before else gr.skip()]

    def arrive(request: gr.Request) -> list[Any]:
        homes = [str(home) for home in request.query_params.getlist("home")][: compare_parts.RUNS_MAX]
        found = [row.home for row in site.homes.snapshot().rows]
        return [gr.Dropdown(choices=found, value=homes), *show(homes, {})]

    gr.on(None, arrive, None, [picked, *outputs], **PRIVATE)
    picked.change(None, [picked], None, js=_ADDRESS, **PRIVATE)
    picked.change(show, [picked, seen], outputs, **PRIVATE)
    timer.tick(show, [picked, seen], outputs, trigger_mode="once", **PRIVATE)


def _parts(site: Site, compared: Compared, homes: Sequence[str]) -> dict[str, str]:
    """Every part of the page as HTML. What can't be read is said, and the rest compared without it."""
    parts = dict.fromkeys(_PARTS, "")
    found: dict[str, tuple[OpenRun, RunFacts]] = {}
    problems: list[str] = []
    for home in list(dict.fromkeys(homes))[: compare_parts.RUNS_MAX]:
        try:
            run = site.runs.run(home)
            facts = compared.facts(run)
            if facts is None:
                raise BadInput("this run was deleted", where=home)
            found[run.home] = run, facts
        except BadInput as error:
            problems.append(compare_parts.missing(home, error.what))
        except DbrError as error:
            problems.append(compare_parts.missing(home, str(error)))
    runs = [facts for _, facts in found.values()]
    rows = {row.home: row for row in site.homes.snapshot().rows}
    parts["head"] = compare_parts.head(runs, [rows.get(home) for home in found], problems)
    if len(runs) < 2:
        parts["losses"] = compare_parts.too_few(len(runs), any_run=bool(rows))
        return parts
    storages = [run.storage for run, _ in found.values()]
    return {
        "head": parts["head"],
        "losses": compare_parts.losses(runs),
        "samples": compare_parts.samples(
            runs, lambda place, key, small: sample_url(site, storages[place], key, small=small)
        ),
        "differences": compare_parts.differences(runs),
    }
