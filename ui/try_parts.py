"""The parts of the page Try it as HTML. Pure: pictures are given as addresses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

from dreambooth_resume.ui.errand_parts import under_way, without_result
from dreambooth_resume.ui.errands import Errand
from dreambooth_resume.ui.markup import empty, problem, text
from dreambooth_resume.ui.try_out import Painted


def try_address(home: str, step: str = "") -> str:
    """The page's address for a checkpoint of a run."""
    return f"try?home={quote(home, safe='')}" + (f"&step={quote(step, safe='')}" if step else "")


def try_link(home: str, step: str) -> str:
    """A button of other pages that leads here."""
    return f'<a class="act small" href="{text(try_address(home, step))}">Try it</a>'


def nothing_yet(*, any_run: bool) -> str:
    """Before the first picture."""
    if not any_run:
        return part(empty("No run here yet", "There is something to try once a run has saved a checkpoint.", None))
    words = (
        "The picture of the checkpoint comes beside that of the base model, from the same noise, so that only the LoRA "
        "differs. A process of its own loads the model for each and gives the memory back."
    )
    return part(empty("Nothing is painted yet", words, None))


def no_checkpoint(name: str) -> str:
    return part(empty("Nothing is saved yet", f"{name} can be tried once its first checkpoint is durable.", None))


def waiting(errand: Errand) -> str:
    """Whose turn it is, or how far it has come."""
    return part(under_way(errand, what="Painting"))


def failed(errand: Errand) -> str:
    return part(without_result(errand))


def refused(what: str, fix: str = "") -> str:
    return part(problem(what, fix))


def pair(painted: Sequence[Painted], url: Callable[[Path], str], typed: str) -> str:
    """One answer: base model and checkpoint side by side."""
    figures = "".join(_figure(one, url(one.path)) for one in painted)
    prompt = painted[0].prompt if painted else ""
    return (
        f'<section class="pair"><p class="say">{text(prompt)}</p><div class="pics two">{figures}</div>'
        f'<small class="dim">{text(painted[0].facts if painted else "")}</small>'
        f"<details><summary>As typed</summary><pre>{text(typed)}</pre></details></section>"
    )


def _figure(one: Painted, url: str) -> str:
    name = one.checkpoint or "base model"
    alt = text(f"{name}: {one.prompt}")
    return (
        f'<figure><a href="{text(url)}" target="_blank"><img src="{text(url)}" alt="{alt}"></a>'
        f'<figcaption><b>{text(name)}</b> <a class="act small" href="{text(url)}" download="{text(one.path.name)}" '
        f'aria-label="Download the picture of {text(name)}">Download</a></figcaption></figure>'
    )


def part(body: str) -> str:
    return f'<div class="dbr">{body}</div>'
