"""Checkpoints for other programs, as files to save: made by `dbr export`, as a process, because it loads torch."""

from __future__ import annotations

from pathlib import Path

from dreambooth_resume.errors import BadInput
from dreambooth_resume.ui.open_run import RunView
from dreambooth_resume.ui.site import Site, served_url


def begin_export(site: Site, view: RunView, folder: str) -> None:
    """Have the LoRA of a checkpoint of this run written in kohya's format; nothing to do where that was done."""
    path = _file(site, view, folder)
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    site.served.tidy()
    home = view.row.home
    words = ["export", home, "--step", folder, "--format", "kohya", "--to", str(path)]
    site.begin(home, f"export {folder}", words)


def exported(site: Site, view: RunView, folder: str) -> dict[str, str]:
    """The files of a checkpoint that were made: name to where the browser gets it. New tokens are a file beside it."""
    if view.record is None:
        return {}
    made = _file(site, view, folder)
    return {path.name: served_url(path) for path in (made, made.with_stem(f"{made.stem}_emb")) if path.is_file()}


def _file(site: Site, view: RunView, folder: str) -> Path:
    """By the run's own number: another run may come to lie in the same home."""
    if view.record is None:
        raise BadInput("can't be read", where="run.json", fix="look again in a moment")
    name = f"{view.row.name}-{folder.removeprefix('checkpoint-')}-kohya.safetensors"
    return site.served.place(view.row.home, view.record.run_id, folder) / name
