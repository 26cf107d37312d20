"""The first page: every run, what it does and what it needs."""

from __future__ import annotations

from typing import Any, cast

import gradio as gr

from dreambooth_resume.errors import DbrError
from dreambooth_resume.ui import markup
from dreambooth_resume.ui.site import PRIVATE, REFRESH_SECONDS, Site, html_part, navbar
from dreambooth_resume.ui.view import STATE_WORDS, SortKey, chosen_rows, counted

_SORTS = [("Newest", "newest"), ("Name", "name"), ("State", "state"), ("Progress", "step"), ("Cost", "cost")]
_STATES = [("All states", "all"), ("Live", "live"), *((words, state) for state, words in STATE_WORDS.items())]
_WAIT = '<div class="dbr"><div class="skeleton" role="status" aria-label="Reading the runs"></div></div>'


def build(site: Site) -> None:
    """Puts the page into the Blocks that are open."""
    navbar()
    with gr.Row(elem_classes="dbr-bar"):
        title = html_part('<div class="dbr"><h2>Runs</h2></div>')
    with gr.Row(elem_classes="dbr-bar"):
        search = gr.Textbox(
            placeholder="Search name, folder, state", show_label=False, container=False, scale=4, elem_id="search"
        )
        state = gr.Dropdown(_STATES, value="all", label="State", show_label=False, container=False, min_width=150)
        sort = gr.Dropdown(_SORTS, value="newest", label="Sort", show_label=False, container=False, min_width=120)
    said = html_part("", elem_id="said")
    table = html_part(_WAIT, js_on_load=markup.CLICKS, elem_id="runs")
    seen = gr.State({})
    timer = gr.Timer(REFRESH_SECONDS)

    def show(words: str, which: str, order: str, before: dict[str, str]) -> list[Any]:
        found = site.homes.snapshot()
        made = {
            "title": _title(counted(found.rows) if found.is_read else "reading…"),
            "said": _commands(site, list(found.problems)),
            "table": _WAIT,
        }
        if found.is_read:
            rows = chosen_rows(found.rows, words=words or "", state=which, sort=cast(SortKey, order))
            places = site.homes.places
            made["table"] = f'<div class="dbr">{markup.runs_table(rows, any_run=bool(found.rows), places=places)}</div>'
        changed = [gr.skip() if before.get(name) == value else value for name, value in made.items()]
        return [*changed, made if made != before else gr.skip()]

    def act(words: str, which: str, order: str, before: dict[str, str], event: gr.EventData) -> list[Any]:
        try:
            home = site.homes.found(event.home)
            if event.act == "resume":
                site.resume(home)
            elif event.act == "stop":
                site.stop(home)
        except DbrError as error:
            gr.Warning(markup.text(str(error)))
        return show(words, which, order, before)

    inputs, outputs = [search, state, sort, seen], [title, said, table, seen]
    gr.on([search.change, state.change, sort.change], show, inputs, outputs, **PRIVATE)
    timer.tick(show, inputs, outputs, trigger_mode="once", **PRIVATE)
    # The buttons of all rows are one event: with "once", a click would be dropped while another is being handled.
    table.click(act, inputs, outputs, trigger_mode="multiple", **PRIVATE)
    gr.on(None, show, inputs, outputs, **PRIVATE)


def _title(count: str) -> str:
    compare = '<a class="act" href="compare" data-compare style="margin-left:auto">Compare</a>'
    new = '<a class="act primary" href="new-run">New run</a>'
    return f'<div class="dbr top"><h2>Runs</h2><span class="dim">{markup.text(count)}</span>{compare}{new}</div>'


def _commands(site: Site, problems: list[str]) -> str:
    """What was just asked for, of any run, and places that can't be read."""
    shown = "".join(markup.problem(one) for one in problems)
    recent = [one for one in site.commands.newest() if one.state != "done"]
    return f'<div class="dbr">{shown}{markup.command_list(recent)}</div>' if shown or recent else ""
