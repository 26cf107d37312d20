"""The page New run: pictures, prompt, place, every option of the schema, review, start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.option import Option
from dreambooth_resume.config.options.train import SECTIONS
from dreambooth_resume.config.schema import OPTIONS, section_summary
from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.insight.gpus import GPUS
from dreambooth_resume.launch.launchers import LAUNCHERS, settings_options
from dreambooth_resume.ui import doctor_parts, markup, new_run_parts
from dreambooth_resume.ui.doctor_page import TICK_SECONDS, at_rest, begun, followed
from dreambooth_resume.ui.draft import PRESETS, Review, askable, bounds, launcher_fields, left_to_a_terminal
from dreambooth_resume.ui.estimate_part import estimated
from dreambooth_resume.ui.new_run import Wish, begin_run, pictures_of, review_of, test_access
from dreambooth_resume.ui.places_to_run import launcher_remarks
from dreambooth_resume.ui.served import small_picture
from dreambooth_resume.ui.site import PRIVATE, REFRESH_SECONDS, Site, html_part, navbar, served_url
from dreambooth_resume.workflows.data_check import DataCheck, check_data, uncommon_word
from dreambooth_resume.workflows.first_start import decided

_FIRST = ("pretrained_model_name_or_path", "instance_prompt", "class_prompt", "resolution", "max_train_steps")
_PICTURES_SHOWN = 60
_NOT_FROM_HERE = ("kubernetes",)
"""Launchers whose first start needs what only a terminal may name."""
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """The components that make up a wish."""

    uploads: Any
    folder: Any
    captions: Any
    preset: Any
    gpu: Any
    where: Any
    place: Any
    name: Any
    options: Fields
    own: Mapping[str, Fields]
    """The options of each launcher."""

    def all(self) -> set[Any]:
        first = {self.uploads, self.folder, self.captions, self.preset, self.gpu, self.where, self.place}
        return first | set(self.fields().values())

    def fields(self) -> dict[str, Any]:
        """What an error can stand beside: `rank`, `slurm.partition`, `name`."""
        own = {_key(where, name): field for where, fields in self.own.items() for name, field in fields.items()}
        return {"name": self.name, **self.options, **own}

    def wish(self, data: Mapping[Any, Any]) -> Wish:
        """What the user has typed; what stands in the fields of other launchers is nothing that was asked for."""
        asked = {**self.options, **self.own.get(str(data[self.where]), {})}
        values = {name: str(data[field]).strip() for name, field in asked.items() if data[field] not in (None, "")}
        return Wish(
            uploads=tuple(Path(str(path)) for path in data[self.uploads] or ()),
            captions={str(row[0]): str(row[1]) for row in data[self.captions] or () if len(row) > 1},
            folder=str(data[self.folder] or "").strip(),
            preset=data[self.preset] or None,
            where=str(data[self.where]),
            place=str(data[self.place]),
            name=str(data[self.name] or ""),
            values={name: value for name, value in values.items() if value},
        )


def build(site: Site) -> None:
    """Puts the page into the Blocks that are open."""
    navbar()
    html_part('<div class="dbr top"><h2>New run</h2></div>')
    look, found, form = _form(site)
    with gr.Row():
        check = gr.Button("Check", elem_id="check")
        look_deeper = gr.Button("Doctor", elem_id="look-deeper")
        start = gr.Button("Start", variant="primary", elem_id="start")
    result = html_part(new_run_parts.reviewed(Review(), ()), elem_id="review")
    yaml = gr.DownloadButton("Save as run.yaml", visible=False, elem_id="yaml")
    bad, home = gr.State([]), gr.State("")
    _doctor(site, form, look_deeper)

    def look_through(data: dict[Any, Any]) -> dict[Any, Any]:
        wish = form.wish(data)
        try:
            checked = _looked_at(site, wish)
        except DbrError as error:
            said = f'<div class="dbr">{markup.problem(_said(error))}</div>'
            return {found: said} if wish.uploads else {found: said, form.captions: gr.update(value=[], visible=False)}
        captions = [[one.name, one.caption or ""] for one in checked.pictures]
        shown = new_run_parts.findings(checked, _small(site, checked))
        return {found: shown, form.captions: gr.update(value=captions, visible=bool(wish.uploads))}

    def checked_form(data: dict[Any, Any]) -> dict[Any, Any]:
        # `follow` must not put the command of an earlier Start in the place of what this found.
        wish = form.wish(data)
        made = review_of(site, wish)
        takes = estimated(made.train_words, str(data[form.gpu] or "")) if made.words else ""
        parts = (result, yaml, bad)
        return {**_shown(site, form, wish.where, made, data[bad], parts, estimate=takes), home: ""}

    def started(data: dict[Any, Any]) -> dict[Any, Any]:
        wish = form.wish(data)
        made = begin_run(site, wish)
        now = made.home if made.words else ""
        return {**_shown(site, form, wish.where, made, data[bad], (result, yaml, bad)), home: now}

    def follow(address: str) -> Any:
        commands = site.commands.of(address) if address else ()
        if not commands or commands[0].verb != "start":
            return gr.skip()
        return new_run_parts.reviewed(Review(home=address), commands)

    every, outputs = form.all() | {bad}, [result, yaml, bad, home, *form.fields().values()]
    look.click(look_through, form.all(), [found, form.captions], **{**PRIVATE, "show_progress": "minimal"})
    gr.on([form.uploads.upload, form.uploads.delete], look_through, form.all(), [found, form.captions], **PRIVATE)
    form.uploads.clear(lambda: ("", gr.update(value=[], visible=False)), None, [found, form.captions], **PRIVATE)
    check.click(checked_form, every, outputs, trigger_mode="once", **{**PRIVATE, "show_progress": "minimal"})
    start.click(started, every, outputs, trigger_mode="once", **{**PRIVATE, "show_progress": "minimal"})
    gr.Timer(REFRESH_SECONDS).tick(follow, [home], [result], trigger_mode="once", **PRIVATE)


def _doctor(site: Site, form: _Form, look_deeper: Any) -> None:
    """What `dbr doctor` says of the draft, below the review."""
    cancel = gr.Button("Cancel the examination", visible=False, elem_id="cancel")
    found = html_part("", elem_id="examined")
    errand, timer = gr.State(""), gr.Timer(TICK_SECONDS, active=False)
    outputs = [found, errand, timer, cancel]

    def examine(data: dict[Any, Any], request: gr.Request) -> dict[Any, Any]:
        made = review_of(site, form.wish(data))
        if not made.words:
            site.examinations.end_of(str(request.session_hash or ""))
            return dict(zip(outputs, (new_run_parts.reviewed(made, ()), "", *at_rest()), strict=True))
        words = doctor_parts.doctor_words(made.train_words, deep=False)
        return dict(zip(outputs, begun(site, words, request), strict=True))

    look_deeper.click(examine, form.all(), outputs, trigger_mode="once", **{**PRIVATE, "show_progress": "minimal"})
    timer.tick(lambda name: followed(site, name), [errand], [found, timer, cancel], trigger_mode="once", **PRIVATE)
    cancel.click(site.examinations.end, [errand], None, **PRIVATE)


def _form(site: Site) -> tuple[Any, Any, _Form]:
    """The fields, in the order in which they are filled in."""
    fields: dict[str, Any] = {}
    with gr.Column(elem_classes="step"):
        html_part('<div class="dbr"><h3>1 · Pictures</h3></div>')
        uploads = gr.File(
            label="Drop pictures", file_count="multiple", file_types=["image"], elem_id="uploads", height=140
        )
        with gr.Row(equal_height=True):
            folder = gr.Textbox(label="or a folder of this machine", placeholder="pictures", scale=3, elem_id="folder")
            look = gr.Button("Look through", scale=1, elem_id="look")
        found = html_part("", elem_id="findings")
        captions = gr.Dataframe(
            headers=["picture", "caption"],
            type="array",
            visible=False,
            label="Captions, to be edited",
            elem_id="captions",
            static_columns=[0],
            column_count=(2, "fixed"),
            wrap=True,
        )
    with gr.Column(elem_classes="step"):
        html_part('<div class="dbr"><h3>2 · What is learnt, from what</h3></div>')
        for name in _FIRST:
            fields[name] = _field(OPTIONS[name])
        with gr.Row():
            preset = gr.Dropdown(
                [("None", ""), *((f"{one[:-2]} GB", one) for one in PRESETS)], value="", label="Preset for a GPU of"
            )
            gpus = [("Every GPU of the table", ""), *((one.title, one.name) for one in GPUS.values())]
            gpu = gr.Dropdown(gpus, value="", label="Estimate what it takes on", elem_id="gpu")
    with gr.Column(elem_classes="step"):
        html_part('<div class="dbr"><h3>3 · Where</h3></div>')
        where = gr.Dropdown(_launchers(), value="local", label="Launcher", elem_id="where")
        own = _launcher_options(where)
        with gr.Row(equal_height=True):
            places = list(site.homes.places)
            place = gr.Dropdown(places, value=places[0], label="Kept in", scale=2, elem_id="place")
            name_ = gr.Textbox(label="Name of the run", placeholder="dog", scale=2, elem_id="name")
            test = gr.Button("Test access", scale=1, elem_id="test-access")
        access = html_part("", elem_id="access")
    with gr.Accordion("All other options", open=False, elem_id="options"):
        for section in SECTIONS:
            asked = [option for option in askable() if option.section == section and option.name not in fields]
            if asked:
                with gr.Accordion(f"{section}: {section_summary(section)}", open=False), gr.Row():
                    fields |= {option.name: _field(option) for option in asked}
    test.click(lambda where: test_access(site, where), [place], [access], **PRIVATE)
    form = _Form(
        uploads=uploads, folder=folder, captions=captions, preset=preset, gpu=gpu, where=where, place=place, name=name_,
        options=fields, own=own,
    )  # fmt: skip
    return look, found, form


def _launcher_options(where: Any) -> dict[str, Fields]:
    """The fields of every launcher, of which those of the chosen one are seen."""
    made: dict[str, Fields] = {}
    columns, remarks = [], launcher_remarks()
    for name in LAUNCHERS:
        with gr.Column(visible=name == where.value, elem_id=f"options-{name}") as column:
            asked = [] if name in _NOT_FROM_HERE else launcher_fields(name)
            with gr.Row():
                made[name] = {option.name: _field(option, launcher=name) for option in asked}
            html_part(new_run_parts.left_out(name, left_to_a_terminal(name), remarks[name]))
        columns.append(column)
    where.change(lambda chosen: [gr.update(visible=name == chosen) for name in LAUNCHERS], [where], columns, **PRIVATE)
    return made


def _key(where: str, name: str) -> str:
    return f"{where}.{name}"


def _field(option: Option, *, launcher: str = "") -> Any:
    """Text for everything but choices: what is typed is checked by the schema, as on the command line."""
    key = _key(launcher, option.name) if launcher else option.name
    common = {
        "label": option.name, "info": _about(key), "elem_id": f"option-{key.replace('.', '-')}", "min_width": 280,
    }  # fmt: skip
    choices = ("true", "false") if option.kind == "bool" else option.choices
    default = new_run_parts.default_of(option)
    if choices:
        return gr.Dropdown([(f"default: {default}", ""), *((one, one) for one in choices)], value="", **common)
    return gr.Textbox(placeholder=default, lines=1, **common)


def _about(key: str) -> str | None:
    """What a field says of itself while nothing is wrong with it."""
    where, dot, name = key.partition(".")
    option = settings_options(where)[name] if dot else OPTIONS.get(key)
    return new_run_parts.help_of(option, bounds(option)) if option is not None else None


def _launchers() -> list[tuple[str, str]]:
    remarks = launcher_remarks()
    return [
        (f"{name}: {about}{f' — {remarks[name]}' if remarks[name] else ''}", name)
        for name, (_, _, about) in LAUNCHERS.items()
    ]


def _looked_at(site: Site, wish: Wish) -> DataCheck:
    """The pictures of the wish, as `dbr data check` sees them. Raises what it raises."""
    words = [f"--{name}={value}" for name, value in wish.values.items() if name in ("instance_prompt", "resolution")]
    folder = pictures_of(site, wish)
    prompt = [] if "instance_prompt" in wish.values else ["--instance_prompt=x"]
    words += ["--pretrained_model_name_or_path=x", *prompt, f"--instance_data_dir={folder}"]
    options = decided(resolve(parse_train(words), recorded=None))
    return check_data(options, trigger_word=uncommon_word(wish.values.get("instance_prompt", "")))


def _small(site: Site, found: DataCheck) -> dict[str, str]:
    small = {}
    for one in found.pictures[:_PICTURES_SHOWN]:
        source = found.files[one.name]
        try:
            path = site.served.file("small.webp", str(source), str(source.stat().st_mtime_ns))
            if not path.is_file():
                path.write_bytes(small_picture(source.read_bytes()))
            small[one.name] = served_url(path)
        except (OSError, ValueError):
            continue
    return small


def _shown(
    site: Site,
    form: _Form,
    where: str,
    made: Review,
    before: Sequence[str],
    parts: tuple[Any, ...],
    *,
    estimate: str = "",
) -> dict[Any, Any]:
    """The review, and each error beside its field; those of the last check are taken away."""
    result, yaml, bad = parts
    fields, own = form.fields(), form.own.get(where, {})
    keyed = {_key(where, error.name) if error.name in own else error.name: error for error in made.errors}
    now = {key: error for key, error in keyed.items() if key in fields}
    updates: dict[Any, Any] = {
        fields[name]: gr.update(info=_about(name), elem_classes=[]) for name in before if name not in now
    }
    for name, error in now.items():
        updates[fields[name]] = gr.update(info=f"✗ {error.what}. {error.fix}", elem_classes=["bad"])
    updates[yaml] = gr.update(visible=False)
    if made.words:
        path = site.served.file("run.yaml", made.yaml)
        path.write_text(made.yaml)
        updates[yaml] = gr.update(value=str(path), visible=True)
    started = [one for one in site.commands.of(made.home) if one.verb == "start"]
    shown = new_run_parts.reviewed(made, started, estimate=estimate)
    return {**updates, result: shown, bad: list(now)}


def _said(error: DbrError) -> str:
    if isinstance(error, BadInput):
        return f"{error.where + ': ' if error.where else ''}{error.what}. {error.fix or ''}"
    return str(error)
