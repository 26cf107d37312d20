"""The page of one run, `/run?home=…`: how it stands, what can be done about it, and everything that it has left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth_resume.errors import BadInput, DbrError, KeyNotFound
from dreambooth_resume.launch.launchers import LAUNCHERS
from dreambooth_resume.runs.checkpoints import find_checkpoint
from dreambooth_resume.runs.entries import CheckpointRef, StoredFile
from dreambooth_resume.runs.home import WEIGHTS_NAME
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.pull import newest_checkpoint
from dreambooth_resume.runs.samples import SampleSet
from dreambooth_resume.ui import markup, picture_pair, run_parts
from dreambooth_resume.ui.commands import Command
from dreambooth_resume.ui.exports import begin_export, exported
from dreambooth_resume.ui.open_run import OpenRun, RunView
from dreambooth_resume.ui.site import PRIVATE, REFRESH_SECONDS, Site, html_part, navbar, sample_url
from dreambooth_resume.workflows.kill import kill_run

_PARTS = ("head", "acts", "curves", "samples", "timeline", "checkpoints", "log", "configuration")
_APPEARS_SECONDS = 60.0
_WAIT = '<div class="dbr"><div class="skeleton" role="status" aria-label="Reading the run"></div></div>'


def build(site: Site) -> None:
    """Puts the page into the Blocks that are open."""
    navbar()
    home, seen, timer = gr.State(""), gr.State({}), gr.Timer(REFRESH_SECONDS)
    made = {"head": html_part(_WAIT, elem_id="head")}
    made["acts"] = html_part("", js_on_load=markup.CLICKS, elem_id="acts")
    download = gr.DownloadButton("Download", visible=False, elem_id="download")
    steps, place, again, fork_step, fork_to, fork = _more()
    with gr.Tabs():
        with gr.Tab("Curves"):
            made["curves"] = html_part("", elem_id="curves")
        with gr.Tab("Samples"):
            picture_pair.build(home, lambda address: _samples(site, address), lambda *one: _whole(site, *one))
            made["samples"] = html_part("", elem_id="samples")
        with gr.Tab("Timeline"):
            made["timeline"] = html_part("", elem_id="timeline")
        with gr.Tab("Checkpoints"):
            made["checkpoints"] = html_part("", js_on_load=markup.CLICKS, elem_id="checkpoints")
        with gr.Tab("Log"):
            made["log"] = html_part("", autoscroll=True, max_height=560, elem_id="log")
        with gr.Tab("Configuration"):
            made["configuration"] = html_part("", elem_id="configuration")
    outputs = [made[part] for part in _PARTS]

    def show(address: str, before: dict[str, str], *, fresh: bool = False) -> list[Any]:
        now = _parts(site, address, fresh=fresh)
        changed = [gr.skip() if before.get(part) == now[part] else now[part] for part in _PARTS]
        return [*changed, now if now != before else gr.skip()]

    def arrive(request: gr.Request) -> list[Any]:
        address = str(request.query_params.get("home", ""))
        return [*show(address, {}), address]

    def act(address: str, before: dict[str, str], event: gr.EventData) -> list[Any]:
        offered: Any = gr.skip()
        try:
            run = site.runs.run(address)
            file = _do(site, run, str(event.act), str(event.name))
            if file is not None:
                offered = gr.DownloadButton(f"Save {file.name}", value=str(file), visible=True, variant="primary")
        except DbrError as error:
            gr.Warning(markup.text(_said(error)))
        return [*show(address, before, fresh=True), offered]

    def resume_there(address: str, to: float | None, on: str, before: dict[str, str]) -> list[Any]:
        words = ["--max_train_steps", str(int(to))] if to else []
        return then_show(address, before, lambda run: site.resume(run.home, on=on, words=words))

    def fork_it(address: str, step: str, to: str, before: dict[str, str]) -> list[Any]:
        return then_show(address, before, lambda run: _fork(site, run, step.strip(), to.strip()))

    def then_show(address: str, before: dict[str, str], do: Callable[[OpenRun], object]) -> list[Any]:
        try:
            run = site.runs.run(address)
            do(run)
            run.forget_job()
        except DbrError as error:
            gr.Warning(markup.text(_said(error)))
        return show(address, before, fresh=True)

    gr.on(None, arrive, None, [*outputs, seen, home], **PRIVATE)
    timer.tick(show, [home, seen], [*outputs, seen], trigger_mode="once", **PRIVATE)
    for clicked in (made["acts"], made["checkpoints"]):
        # All buttons of a part are one event: with "once", Stop would be dropped while a download is being read.
        clicked.click(act, [home, seen], [*outputs, seen, download], trigger_mode="multiple", **PRIVATE)
    again.click(resume_there, [home, steps, place, seen], [*outputs, seen], **PRIVATE)
    fork.click(fork_it, [home, fork_step, fork_to, seen], [*outputs, seen], **PRIVATE)


def _more() -> tuple[Any, ...]:
    """The fields for what a button alone can't say."""
    with gr.Accordion("Continue to more steps, resume elsewhere, fork", open=False, elem_id="more"):
        with gr.Row(equal_height=True):
            steps = gr.Number(label="Continue to step", precision=0, minimum=1, scale=1)
            place = gr.Dropdown(list(LAUNCHERS), value="local", label="Where", scale=1)
            again = gr.Button("Resume there", scale=1, elem_id="resume-there")
        with gr.Row(equal_height=True):
            fork_step = gr.Textbox(label="Fork from (a step or a checkpoint; empty: the newest)", scale=1)
            fork_to = gr.Textbox(label="New home", scale=1)
            fork = gr.Button("Fork", scale=1, elem_id="fork")
    return steps, place, again, fork_step, fork_to, fork


def _parts(site: Site, address: str, *, fresh: bool) -> dict[str, str]:
    """Every part of the page as HTML; where there is no such run, the head says so and the rest is empty."""
    parts = dict.fromkeys(_PARTS, "")
    try:
        run = site.runs.run(address)
        view = run.view(fresh=fresh)
        if view is None:
            raise BadInput("this run was deleted", where=address, fix="the other runs are on the page Runs")
    except BadInput as error:
        now = datetime.now(UTC)
        started = [one for one in site.commands.of(address) if one.verb == "start" and _makes_a_run(one, now=now)]
        if started:
            return {**parts, "head": run_parts.being_started(address, started)}
        gone = markup.empty("There is no such run here", f"{error.where}: {error.what}.", None)
        return {**parts, "head": f'<div class="dbr">{gone}<p><a href=".">All runs</a></p></div>'}
    except DbrError as error:
        said = markup.problem(str(error), "It is looked at again every few seconds.")
        return {**parts, "head": f'<div class="dbr"><h2>{markup.text(address)}</h2>{said}</div>'}
    return {
        "head": run_parts.head(view, site.commands.of(run.home)),
        "acts": run_parts.actions(view.row, can_kill=_can_kill(view)),
        "curves": run_parts.curves(view),
        "samples": run_parts.samples(view, lambda key, small: sample_url(site, run.storage, key, small=small)),
        "timeline": run_parts.timeline(view),
        "checkpoints": run_parts.checkpoints(view, lambda folder: exported(site, view, folder)),
        "log": run_parts.log(view),
        "configuration": run_parts.configuration(view),
    }


def _makes_a_run(start: Command, *, now: datetime) -> bool:
    """Can its run still appear? A minute after the end of its start it has; gone later, it was deleted."""
    if start.state in ("done", "failed"):
        ended_at = datetime.fromisoformat(start.ended_at or start.at)
        return start.state == "done" and (now - ended_at).total_seconds() < _APPEARS_SECONDS
    return True


def _can_kill(view: RunView) -> bool:
    return view.row.is_live and view.summary.is_certain and view.summary.process is not None


def _samples(site: Site, address: str) -> tuple[SampleSet, ...]:
    """What the run in `address` has pictures of; nothing where there is no such run."""
    try:
        view = site.runs.run(address).view()
    except DbrError:
        return ()
    return view.samples if view is not None else ()


def _whole(site: Site, address: str, key: str) -> str | None:
    try:
        return str(site.served.picture(site.runs.run(address).storage, key))
    except (KeyNotFound, ValueError, OSError, DbrError):
        return None


def _do(site: Site, run: OpenRun, act: str, name: str) -> Any:
    """Carry out one button. Returns a file to save, for the one that makes a file. Raises a DbrError."""
    home = run.home
    commands: dict[str, Callable[[], object]] = {
        "stop": lambda: site.stop(home),
        "resume": lambda: site.resume(home),
        "save": lambda: site.begin(home, "save-now", ["save-now", home]),
        "sample": lambda: site.begin(home, "sample-now", ["sample-now", home]),
        "back": lambda: site.resume(home, words=["--resume", _named(run, name)]),
        "verify": lambda: site.begin(home, f"verify {_named(run, name)}", ["checkpoints", "verify", home]),
        "delete": lambda: _delete(site, run, _named(run, name)),
    }
    if act == "download":
        return _weights(site, run, name)
    if act == "kohya":
        view = run.view()
        if view is not None:
            begin_export(site, view, _named(run, name))
    elif act == "kill":
        pids = kill_run(run.storage)
        gr.Info(f"Ended {', '.join(map(str, pids))}.")
    elif act in commands:
        commands[act]()
    run.forget_job()
    return None


def _delete(site: Site, run: OpenRun, folder: str) -> object:
    return site.begin(run.home, f"delete {folder}", ["checkpoints", "delete", run.home, folder, "--yes"])


def _named(run: OpenRun, name: str) -> str:
    """The folder of the checkpoint that a browser names: whatever else it sends never becomes a word of a command."""
    if not name:
        raise BadInput("is not named", where="checkpoint", fix="take one of the list")
    return _checkpoint(run, name).folder


_DOWNLOADS = threading.Lock()


def _weights(site: Site, run: OpenRun, folder: str) -> Any:
    """The LoRA of a checkpoint as a file to save, read from the home and compared with the log."""
    found = _checkpoint(run, folder)
    stored = found.file_named(WEIGHTS_NAME)
    try:
        return _copied(site, run, found, stored)
    except KeyNotFound:
        raise BadInput(f"its {stored.key} is gone", where=found.folder, fix="take another checkpoint") from None
    except OSError as error:
        what = f"its copy can't be written ({error})"
        raise BadInput(what, where=found.folder, fix="make room in the folder for temporary files") from error


def _copied(site: Site, run: OpenRun, found: CheckpointRef, stored: StoredFile) -> Path:
    name = f"{run.home.rstrip('/').rpartition('/')[2]}-{found.step}.safetensors"
    with _DOWNLOADS:
        path = site.served.file(name, run.home, stored.sha256)
        if path.is_file():
            return path
        partial = path.with_suffix(".tmp")
        if run.storage.digest(stored.key).sha256 != stored.sha256:
            raise BadInput("is not what was saved", where=found.folder, fix="take another checkpoint")
        try:
            partial.write_bytes(run.storage.read(stored.key))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        site.served.tidy()
    return path


def _checkpoint(run: OpenRun, folder: str) -> CheckpointRef:
    log = read_log(run.storage)
    if folder:
        return find_checkpoint(log, folder, where=run.home)
    return newest_checkpoint(log, where=run.home)


def _fork(site: Site, run: OpenRun, step: str, to: str) -> None:
    if not to:
        raise BadInput("is empty", where="New home", fix="name a new folder beside this run")
    if not site.homes.allows(to):
        places = " or ".join(site.homes.places)
        raise BadInput(f"doesn't lie below {places}", where=to[:200], fix="name a folder there")
    if step.startswith("-") or to.startswith("-"):
        raise BadInput("begins with a dash", where="Fork", fix="name a step and a folder")
    site.begin(run.home, f"fork {to}", ["fork", run.home, "--to", to, *(["--step", step] if step else [])], to=to)


def _said(error: DbrError) -> str:
    if isinstance(error, BadInput):
        return f"{error.where}: {error.what}. {error.fix or ''}"
    return str(error)
