"""What every page is handed: the runs, the commands, the served folder. A page is a file with a `build` function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth_resume.errors import DbrError, KeyNotFound
from dreambooth_resume.launch.record import read_launches
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.ui.commands import Command, Commands
from dreambooth_resume.ui.errands import Errands
from dreambooth_resume.ui.homes import Homes
from dreambooth_resume.ui.open_run import OpenRuns
from dreambooth_resume.ui.served import Served

REFRESH_SECONDS = 2.0
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Of every handler of a page: it is no part of the API, and nothing is dimmed while it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One running web page."""

    homes: Homes
    runs: OpenRuns
    commands: Commands
    served: Served
    s3_words: tuple[str, ...] = ()
    """The options by which every command reaches the homes that lie in a bucket."""
    files: tuple[str, ...] = ()
    """Folders of this machine that pictures and models may be taken from, beside the homes."""
    examinations: Errands = field(default_factory=Errands)
    """`dbr doctor`, one at a time."""
    paintings: Errands = field(default_factory=Errands)
    """`dbr generate`, one at a time: two would not fit into the memory of one GPU."""

    def begin(self, home: str, verb: str, words: Sequence[str], *, to: str = "") -> Command:
        """Start `dbr WORDS` about `home`, which must have been found; `to` is the home that it makes, if any."""
        more = self.s3_words if "://" in home or "://" in to else ()
        return self.commands.begin(home, verb, [*words, *more])

    def stop(self, home: str) -> Command:
        return self.begin(home, "stop", ["stop", home])

    def resume(self, home: str, *, on: str | None = None, words: Sequence[str] = ()) -> Command:
        """Launch the run again: on `on`, else where it was launched last, else here."""
        was_launched = on is None and self._was_launched(home)
        where = [] if was_launched else ["--on", on or "local"]
        return self.begin(home, "resume", ["resume", home, *where, *words])

    def _was_launched(self, home: str) -> bool:
        return bool(read_launches(self.homes.storage(home)))


def end_with_their_tabs(demo: Any, site: Site) -> None:
    """What a tab waits for ends soon after it was closed. `demo` are the Blocks that are open."""

    def left(request: gr.Request) -> None:
        for errands in (site.examinations, site.paintings):
            errands.leave(str(request.session_hash or ""))

    demo.unload(left)
    demo.fns[max(demo.fns)].api_visibility = "private"  # unload takes no words of its own


def navbar() -> None:
    """Of each page: without it the first one would be called Home on the others."""
    gr.Navbar(main_page_name="Runs")


def html_part(value: str, **more: Any) -> Any:
    """A part of a page that is HTML of ours, without Gradio's own styles for text."""
    return gr.HTML(value, apply_default_css=False, **more)


def sample_url(site: Site, storage: Storage, key: str, *, small: bool) -> str | None:
    """Where the browser gets a sample's picture; None for what can't be read."""
    try:
        return served_url(site.served.picture(storage, key, small=small))
    except (KeyNotFound, ValueError, OSError, DbrError):
        return None


def served_url(path: Path) -> str:
    """Where the browser gets a served file; relative, so that it holds behind a proxy."""
    return f"gradio_api/file={path}"
