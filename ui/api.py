"""The API, for `gradio_client` and plain HTTP: five functions with types. Everything else of the page is private.

from gradio_client import Client
page = Client("http://127.0.0.1:7860")
page.predict(api_name="/list_runs")
page.predict("runs/dog", api_name="/stop_run")
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gradio as gr

from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.launch.launchers import LAUNCHERS
from dreambooth_resume.ui.commands import Command
from dreambooth_resume.ui.new_run import Wish, begin_run, with_options
from dreambooth_resume.ui.site import Site

_ANSWER_SECONDS = 300.0


def publish(site: Site) -> None:
    """Adds the functions to the Blocks that are open."""

    def list_runs() -> list[dict[str, Any]]:
        """Every run below the page's homes: home, state, because, step, steps, durable_step, cost and more."""
        return [asdict(row) for row in site.homes.look(details=True).rows]

    def run_status(home: str) -> dict[str, Any]:
        """One run as it stands now, its attempts and its checkpoints."""
        with _errors_told():
            view = site.runs.run(home).view(fresh=True)
            if view is None:
                raise BadInput("this run was deleted", where=home)
            attempts = [
                {"number": one.number, "host": one.process.host, "from_step": one.base_step,
                 "to_step": one.reached_step, "ending": one.ending, "exit_code": one.exit_code, "reason": one.reason}
                for one in view.attempts
            ]  # fmt: skip
            checkpoints = [asdict(one) for one in view.checkpoints]
            return {**asdict(view.row), "attempts": attempts, "checkpoints": checkpoints}

    def start_run(
        place: str, name: str, options: dict[str, Any], where: str = "local", preset: str = ""
    ) -> dict[str, Any]:
        """Start a new run in PLACE/NAME, with options of `dbr train` (and of the launcher), by one of the launchers."""
        with _errors_told():
            values = dict(options)
            wish = Wish(
                place=place, name=name, where=where, preset=preset or None,
                folder=str(values.pop("instance_data_dir", "")),
            )  # fmt: skip
            made = begin_run(site, with_options(wish, values))
            if made.errors:
                first = made.errors[0]
                raise BadInput(first.what, where=first.name or None, fix=first.fix)
            return _answer(site, site.commands.of(made.home)[0])

    def stop_run(home: str) -> dict[str, Any]:
        """Ask the run to save and stop; returns what was said."""
        with _errors_told():
            return _answer(site, site.stop(site.homes.found(home)))

    def resume_run(home: str, where: str = "") -> dict[str, Any]:
        """Launch the run again: WHERE is a launcher; empty: where it was launched last, else on this machine."""
        with _errors_told():
            if where and where not in LAUNCHERS:
                raise BadInput("is no launcher", where=where[:40], fix=", ".join(LAUNCHERS))
            return _answer(site, site.resume(site.homes.found(home), on=where or None))

    for function in (list_runs, run_status, start_run, stop_run, resume_run):
        gr.api(function, api_name=function.__name__)


def _answer(site: Site, command: Command) -> dict[str, Any]:
    """How the command ended, or that it still runs after five minutes. Raises BadInput if it failed."""
    ended = site.commands.wait(command, seconds=_ANSWER_SECONDS)
    if ended.state == "failed":
        raise BadInput(ended.text, where=ended.typed)
    return {"home": ended.home, "state": ended.state, "said": ended.text, "command": ended.typed}


class _errors_told:  # noqa: N801  reads as the sentence that it is
    """Turns our errors into the API's, with their words: Gradio shows no other error's."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, BadInput):
            where = f"{error.where}: " if error.where else ""
            raise gr.Error(f"{where}{error.what}{f' Fix: {error.fix}' if error.fix else ''}") from error
        if isinstance(error, DbrError):
            raise gr.Error(str(error)) from error
