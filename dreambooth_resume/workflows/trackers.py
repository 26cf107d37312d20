"""Trackers of a run: what is asked for and installed, and the feeds of one attempt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from pydantic import JsonValue

from dreambooth_resume.config.options.reporting import ReportingOptions
from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.curves import read_curve
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.training.trackers.base import TRACKERS, OpenTracker, Series, Tracker
from dreambooth_resume.training.trackers.feed import Feed, Trackers, Values
from dreambooth_resume.training.trackers.series import SentRecord, series_of

_WANDB_HOST = "api.wandb.ai"
_OFFLINE = ("offline", "disabled", "dryrun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a tracker is told of a run: its id, the name that people call it, its options, and where files go."""

    run_id: str
    name: str
    options: Mapping[str, JsonValue]
    folder: Path


def chosen_trackers(options: ReportingOptions) -> tuple[str, ...]:
    """The trackers that get this run's steps. Nobody has to install one that nobody asked for."""
    installed = tuple(name for name, kind in TRACKERS.items() if find_spec(kind.package) is not None)
    if options.report_to == "auto":
        return tuple(name for name in ("tensorboard",) if name in installed)
    if options.report_to == "all":
        return installed
    return () if options.report_to == "none" else (options.report_to,)


def check_trackers(options: ReportingOptions, sources: Mapping[str, str]) -> None:
    """Raises BadInput for a tracker that was asked for and isn't installed, or that nobody has logged in to."""
    where = sources.get("report_to", f"report_to {options.report_to}")
    chosen = chosen_trackers(options)
    if options.report_to == "all" and not chosen:
        raise BadInput("no tracker is installed", where=where, fix="pip install tensorboard, or --report_to none")
    for name in chosen:
        package = TRACKERS[name].package
        if find_spec(package) is None:
            raise BadInput(
                f"the package {package} is not installed",
                where=where,
                fix=f"pip install {package}, or --report_to none",
            )
    if "wandb" in chosen and not _wandb_has_a_key():
        raise BadInput(
            "nobody is logged in to Weights & Biases on this machine",
            where=where,
            fix="wandb login, or set WANDB_API_KEY; WANDB_MODE=offline keeps the curves on this machine",
        )


def open_trackers(
    options: ReportingOptions,
    shown: Shown,
    *,
    storage: Storage,
    log: Log,
    attempt: int,
    tell: Callable[[str], None],
) -> Trackers:
    """The feeds of one attempt, not yet started. Nothing is imported and nobody is asked before they are."""
    series = series_of(log, run_id=shown.run_id, name=shown.name, options=shown.options)
    record = SentRecord(storage, series, attempt=attempt)
    folder = shown.folder / options.logging_dir
    return Trackers(
        [
            Feed(
                name,
                partial(_open, name, series, folder),
                record=record,
                backlog=partial(_backlog, storage, log),
                tell=tell,
            )
            for name in chosen_trackers(options)
        ]
    )


def shown_values(values: Mapping[str, float]) -> dict[str, float]:
    """A line of the metrics under the names that Diffusers' script gives them in a tracker."""
    left_out = ("seconds", "samples", "memory_bytes")
    return {
        ("lr" if name == "learning_rate" else name): value for name, value in values.items() if name not in left_out
    }


def _open(name: str, series: Series, folder: Path) -> Tracker:
    module, _, attribute = TRACKERS[name].target.partition(":")
    return cast(OpenTracker, getattr(import_module(module), attribute))(series, folder)


def _backlog(storage: Storage, log: Log, after_step: int) -> Iterator[tuple[int, Values]]:
    """What earlier attempts measured and the tracker lacks: a machine whose disk was empty shows the whole curve."""
    state = log.entries[-1].state
    if after_step >= state.step:
        return
    for point in read_curve(storage).points:
        if after_step < point.step <= state.step:
            values = {"loss": point.loss, "lr": point.learning_rate, "grad_norm": point.grad_norm}
            values["val_loss"] = point.val_loss
            yield point.step, {name: value for name, value in values.items() if value is not None}


def _wandb_has_a_key() -> bool:
    if os.environ.get("WANDB_MODE") in _OFFLINE or os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "")).hostname or _WANDB_HOST
    files = [Path(os.environ[name]) for name in ("NETRC",) if name in os.environ] or [
        Path.home() / ".netrc",
        Path.home() / "_netrc",
    ]
    return any(path.is_file() and host in path.read_text(errors="replace") for path in files)
