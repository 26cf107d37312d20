"""The page Try it, `/try?home=…&step=…`: a prompt becomes a picture of a checkpoint beside the base model's."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.runs.checkpoints import find_checkpoint, list_checkpoints
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.ui import try_parts
from dreambooth_resume.ui.errand_parts import GONE, TOO_MANY
from dreambooth_resume.ui.new_run import may_use
from dreambooth_resume.ui.site import PRIVATE, Site, html_part, navbar, served_url
from dreambooth_resume.ui.try_out import (
    SIDE_MAX,
    STEPS_MAX,
    Idea,
    checkpoint_choices,
    chosen,
    forget,
    idea_words,
    keep_pictures,
)

_TICK_SECONDS = 1.0
_PAIRS_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A picture that this tab waits for."""

    errand: str
    mark: str
    """Of the folder that it is made in."""
    home: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """How it stands: what is said of it, and the pictures once they are there."""

    said: str
    pair: str = ""
    is_over: bool = True


def build(site: Site) -> None:
    """Puts the page into the Blocks that are open."""
    navbar()
    html_part('<div class="dbr top"><h2>Try it</h2></div>')
    fields, paint, cancel = _form()
    said = html_part("", elem_id="painting")
    pictures = html_part("", elem_id="pictures")
    asked, pairs, timer = gr.State(None), gr.State([]), gr.Timer(_TICK_SECONDS, active=False)
    home, checkpoint, prompt = fields["home"], fields["checkpoint"], fields["prompt"]

    def arrive(request: gr.Request) -> list[Any]:
        homes = [row.home for row in site.homes.snapshot().rows]
        wanted = str(request.query_params.get("home", ""))
        first = wanted if wanted in homes else next(iter(homes), "")
        steps, words, told = _of_run(site, first, str(request.query_params.get("step", "")))
        if wanted and wanted not in homes:
            told = try_parts.refused(f"There is no such run here: {wanted}", "Choose one of the list.")
        shown = try_parts.nothing_yet(any_run=bool(homes))
        return [gr.Dropdown(choices=homes, value=first or None), steps, words, told, shown]

    def begin(data: dict[Any, Any], request: gr.Request) -> list[Any]:
        tab = str(request.session_hash or "")
        # Enter asks again while the button can't: what is no longer shown must not keep the GPU.
        site.paintings.end_of(tab)
        try:
            idea = _idea({name: data[field] for name, field in fields.items()})
            begun = _begin(site, idea, tab=tab)
        except DbrError as error:
            return [try_parts.refused(*_said(error)), None, *_bound(is_over=True)]
        if begun is None:
            return [try_parts.refused(TOO_MANY), None, *_bound(is_over=True)]
        return [_followed(site, begun).said, begun, *_bound(is_over=False)]

    def follow(wanted: _Asked | None, before: list[str]) -> list[Any]:
        if wanted is None:
            return [gr.skip(), gr.skip(), gr.skip(), *_bound(is_over=True)]
        now = _followed(site, wanted)
        if not now.pair:
            return [now.said, gr.skip(), gr.skip(), *_bound(is_over=now.is_over)]
        all_ = [now.pair, *before][:_PAIRS_SHOWN]
        return [now.said, try_parts.part("".join(all_)), all_, *_bound(is_over=True)]

    def end(wanted: _Asked | None) -> None:
        if wanted is not None:
            site.paintings.end(wanted.errand)

    gr.on(None, arrive, None, [home, checkpoint, prompt, said, pictures], **PRIVATE)
    home.input(lambda address: _of_run(site, address, ""), [home], [checkpoint, prompt, said], **PRIVATE)
    begin_outputs = [said, asked, timer, paint, cancel]
    paint.click(begin, set(fields.values()), begin_outputs, trigger_mode="once", **PRIVATE)
    prompt.submit(begin, set(fields.values()), begin_outputs, trigger_mode="once", **PRIVATE)
    timer.tick(follow, [asked, pairs], [said, pictures, pairs, timer, paint, cancel], trigger_mode="once", **PRIVATE)
    cancel.click(end, [asked], None, **PRIVATE)


def _form() -> tuple[dict[str, Any], Any, Any]:
    """The fields by the names of an Idea, and the two buttons."""
    fields: dict[str, Any] = {}
    with gr.Column(elem_classes="step"):
        with gr.Row():
            fields["home"] = gr.Dropdown([], label="Run", scale=2, elem_id="tried-run")
            fields["checkpoint"] = gr.Dropdown([], label="Checkpoint", scale=1, elem_id="tried-checkpoint")
        fields["prompt"] = gr.Textbox(label="Prompt", lines=1, max_lines=4, elem_id="prompt")
        with gr.Row():
            fields["seed"] = _number("Seed", "empty: the run's, as of its own pictures")
            fields["steps"] = _number("Denoising steps", f"empty: 50; at most {STEPS_MAX}")
            fields["guidance"] = _number("Guidance", "empty: 5; the higher, the closer to the prompt")
        with gr.Accordion("Negative prompt, size, another place of the base model", open=False):
            fields["negative_prompt"] = gr.Textbox(label="Negative prompt", lines=1, max_lines=4)
            with gr.Row():
                for name in ("width", "height"):
                    about = f"empty: the run's resolution; at most {SIDE_MAX}"
                    fields[name] = _number(name.capitalize(), about)
            fields["model"] = gr.Textbox(
                label="Base model", placeholder="where the run has it from", info="if it lies elsewhere on this machine"
            )
    with gr.Row():
        paint = gr.Button("Paint", variant="primary", elem_id="paint")
        cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
    return fields, paint, cancel


def _number(label: str, about: str) -> Any:
    """As text: an empty one means what the run or the command has."""
    return gr.Textbox(label=label, info=about, lines=1, min_width=150, elem_id=f"try-{label.split()[-1].lower()}")


def _of_run(site: Site, address: str, step: str) -> list[Any]:
    """Checkpoints, prompt and what is to be said of a run that was chosen."""
    nothing = [gr.Dropdown(choices=[], value=None), gr.skip()]
    if not address:
        return [*nothing, ""]
    try:
        storage = site.homes.storage(site.homes.found(address))
        choices = checkpoint_choices(list_checkpoints(read_log(storage)))
        record = read_record(storage)
    except DbrError as error:
        return [*nothing, try_parts.refused(*_said(error))]
    options = record.options if record else {}
    words = str(options.get("validation_prompt") or options.get("instance_prompt") or "")
    told = "" if choices else try_parts.no_checkpoint(address)
    return [gr.Dropdown(choices=choices, value=chosen(choices, step) or None), words, told]


def _idea(typed: dict[str, Any]) -> Idea:
    def words(name: str) -> str:
        return str(typed[name] or "").strip()

    return Idea(
        home=words("home"),
        checkpoint=words("checkpoint"),
        prompt=words("prompt"),
        negative_prompt=words("negative_prompt"),
        seed=words("seed"),
        steps=words("steps"),
        guidance=words("guidance"),
        width=words("width"),
        height=words("height"),
        model=words("model"),
    )


def _begin(site: Site, idea: Idea, *, tab: str) -> _Asked | None:
    """Ask for the pictures; None if too many wait. Raises a DbrError for what can't be painted."""
    home = site.homes.found(idea.home)
    if not idea.checkpoint:
        raise BadInput("is not chosen", where="checkpoint", fix="choose one; a run has some once it has saved")
    # Whatever else a browser sends never becomes a word of the command.
    folder = find_checkpoint(read_log(site.homes.storage(home)), idea.checkpoint, where=home).folder
    mark = uuid.uuid4().hex
    words = idea_words(
        idea, home=home, folder=folder, out=site.served.scratch(mark), s3_words=site.s3_words,
        may_use=lambda path: may_use(path, [*site.files, *site.homes.places]),
    )  # fmt: skip
    errand = site.paintings.begin(words, tab=tab)
    return None if errand is None else _Asked(errand=errand, mark=mark, home=home)


def _followed(site: Site, asked: _Asked) -> _Shown:
    errand = site.paintings.look(asked.errand)
    if errand is None:
        return _Shown(said=try_parts.refused(GONE))
    if not errand.is_over:
        return _Shown(said=try_parts.waiting(errand), is_over=False)
    try:
        if errand.state != "done":
            return _Shown(said=try_parts.failed(errand))
        run = asked.home.rstrip("/").rpartition("/")[2]
        painted = keep_pictures(site.served, errand.output, run=run, mark=asked.mark)
    except (ValueError, OSError) as error:
        return _Shown(said=try_parts.refused(f"The pictures can't be shown: {error}"))
    finally:
        forget(site.served.scratch(asked.mark))
    return _Shown(said="", pair=try_parts.pair(painted, served_url, errand.typed))


def _bound(*, is_over: bool) -> Sequence[Any]:
    """Timer and buttons, while somebody waits and else."""
    return gr.Timer(active=not is_over), gr.Button(interactive=is_over), gr.Button(visible=not is_over)


def _said(error: DbrError) -> tuple[str, str]:
    if isinstance(error, BadInput):
        return f"{error.where}: {error.what}" if error.where else error.what, error.fix or ""
    return str(error), ""
