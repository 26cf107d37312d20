"""The page Doctor, `/doctor?home=…`: what would stop a run, or a run file, found before it is begun or resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.ui import doctor_parts, markup
from dreambooth_resume.ui.errand_parts import GONE, TOO_MANY
from dreambooth_resume.ui.new_run import may_use
from dreambooth_resume.ui.site import PRIVATE, Site, html_part, navbar

TICK_SECONDS = 1.0


def build(site: Site) -> None:
    """Puts the page into the Blocks that are open."""
    navbar()
    html_part('<div class="dbr top"><h2>Doctor</h2></div>')
    with gr.Column(elem_classes="step"):
        with gr.Row(equal_height=True):
            home = gr.Dropdown([("–", "")], value="", label="A run of this page", scale=1, elem_id="examined-run")
            file = gr.Textbox(
                label="or a run file of this machine", placeholder="run.yaml", scale=1, elem_id="examined-file"
            )
        deep = gr.Checkbox(
            label="Train real steps, too, and write, resume and verify a checkpoint (minutes)", elem_id="deep"
        )
    with gr.Row():
        begin = gr.Button("Examine", variant="primary", elem_id="examine")
        cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
    result = html_part(f'<div class="dbr">{doctor_parts.NOTHING_YET}</div>', elem_id="diagnosis")
    errand, timer = gr.State(""), gr.Timer(TICK_SECONDS, active=False)

    def arrive(request: gr.Request) -> Any:
        found = [row.home for row in site.homes.snapshot().rows]
        asked = str(request.query_params.get("home", ""))
        return gr.Dropdown(choices=[("–", ""), *((one, one) for one in found)], value=asked if asked in found else "")

    def examine(asked_home: str, asked_file: str, is_deep: bool, request: gr.Request) -> list[Any]:
        try:
            words = wanted_words(site, asked_home or "", (asked_file or "").strip())
        except DbrError as error:
            site.examinations.end_of(str(request.session_hash or ""))
            return [_problem(*_said(error)), "", *at_rest()]
        return begun(site, doctor_parts.doctor_words(words, deep=is_deep), request)

    outputs = [result, errand, timer, cancel]
    gr.on(None, arrive, None, [home], **PRIVATE)
    begin.click(examine, [home, file, deep], outputs, trigger_mode="once", **PRIVATE)
    file.submit(examine, [home, file, deep], outputs, trigger_mode="once", **PRIVATE)
    timer.tick(lambda name: followed(site, name), [errand], [result, timer, cancel], trigger_mode="once", **PRIVATE)
    cancel.click(site.examinations.end, [errand], None, **PRIVATE)


def begun(site: Site, words: list[str], request: gr.Request) -> list[Any]:
    """Start `dbr doctor`: what is shown, its id, the timer that follows it, and the button that ends it."""
    name = site.examinations.begin(words, tab=str(request.session_hash or ""))
    shown, timer, cancel = followed(site, name) if name else (_problem(TOO_MANY), *at_rest())
    return [shown, name or "", timer, cancel]


def followed(site: Site, name: str) -> list[Any]:
    """How it stands now; at its end timer and button come to rest."""
    errand = site.examinations.look(name)
    if errand is None:
        return [_problem(GONE), *at_rest()]
    rest = at_rest() if errand.is_over else [gr.Timer(active=True), gr.Button(visible=True)]
    return [doctor_parts.examined(errand), *rest]


def at_rest() -> list[Any]:
    """Timer and button where nothing is under way."""
    return [gr.Timer(active=False), gr.Button(visible=False)]


def wanted_words(site: Site, home: str, file: str) -> list[str]:
    """The options of `dbr train` that are to be examined. Raises BadInput for what this page may not name."""
    if bool(home) == bool(file):
        what = "are both named" if home else "are both empty"
        raise BadInput(what, where="the run and the run file", fix="choose a run, or name a file")
    if home:
        return doctor_parts.home_words(site.homes.found(home), site.s3_words)
    local = [place for place in (*site.files, *site.homes.places) if "://" not in place]
    if not may_use(file, local) or "://" in file:
        raise BadInput(
            "is outside of the folders that this page may read",
            where=file[:200],
            fix="start dbr ui with --files FOLDER",
        )
    if not Path(file).is_file():
        raise BadInput("there is no such file", where=file[:200], fix="dbr config new run.yaml writes one to fill in")
    return [f"--config={file}"]


def _problem(words: str, fix: str = "") -> str:
    return f'<div class="dbr">{markup.problem(words, fix)}</div>'


def _said(error: DbrError) -> tuple[str, str]:
    if isinstance(error, BadInput):
        return f"{error.where}: {error.what}" if error.where else error.what, error.fix or ""
    return str(error), ""
