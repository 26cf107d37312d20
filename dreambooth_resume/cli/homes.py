"""From the word HOME on a command line to a run."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path, PurePosixPath

from dreambooth_resume.config.values import checked
from dreambooth_resume.errors import BadInput, RefusedToGoOn
from dreambooth_resume.runs.adoption import LATEST
from dreambooth_resume.runs.checkpoints import find_checkpoint
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.home import RUN
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.pull import newest_checkpoint
from dreambooth_resume.runs.registry import find_homes, was_launched
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.storage.urls import open_storage
from dreambooth_resume.workflows.home import S3_OPTIONS
from dreambooth_resume.workflows.home import s3_settings as settings_of

HOME_HELP = "the run's home: a folder (its --output_dir) or s3://BUCKET/NAME"


def add_home(parser: argparse.ArgumentParser) -> None:
    """The words by which every command is told which run is meant."""
    parser.add_argument("home", metavar="HOME", help=HOME_HELP)
    add_s3_options(parser)


def add_step(parser: argparse.ArgumentParser) -> None:
    """The words by which a command is told which checkpoint is meant."""
    parser.add_argument(
        "--step",
        metavar="STEP",
        help="a step, a checkpoint's name, latest or final; left out: the newest, or the result",
    )


def checkpoint_meant(log: Log, step: str | None, *, where: str) -> CheckpointRef:
    """The checkpoint that `--step` means. Raises BadInput for one that isn't there, RefusedToGoOn for a damaged one."""
    if step == "final" and log.finished is None:
        raise BadInput("the run is not finished", where="--step final", fix="--step latest, or leave it out")
    ref = (
        newest_checkpoint(log, where=where)
        if step in (None, LATEST, "final")
        else find_checkpoint(log, step, where=f"--step {step}")
    )
    if ref.number in log.set_aside:
        raise RefusedToGoOn(f"{ref.folder} of {where} was set aside: {log.set_aside[ref.number].reason}")
    return ref


def home_name(storage: Storage) -> str:
    """The last part of a home's address."""
    address = storage.describe()
    return PurePosixPath(address).name if "://" in address else Path(address).resolve().name


def add_s3_options(parser: argparse.ArgumentParser) -> None:
    """The options of `dbr train` by which it reaches a bucket: a home is found by the words it was made with."""
    group = parser.add_argument_group("a home in S3", "as for dbr train; credentials are found as boto3 finds them")
    for name, option in S3_OPTIONS.items():
        about = option.help.replace("%", "%%")
        if option.kind == "bool":
            group.add_argument(_flag(name), dest=name, action="store_true", default=None, help=about)
        else:
            group.add_argument(_flag(name), dest=name, metavar=option.placeholder, help=about)


def s3_settings(arguments: argparse.Namespace) -> S3Settings:
    """How the words say that S3 is reached. Raises BadInput for a value that the option doesn't take."""

    def value(name: str) -> object:
        typed = getattr(arguments, name)
        option = S3_OPTIONS[name]
        return option.default if typed is None else checked(option, typed, where=_flag(name))

    return settings_of(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def open_home(arguments: argparse.Namespace) -> Storage:
    """The storage behind HOME, whatever lies in it."""
    return open_storage(arguments.home, s3_settings(arguments))


def open_run(arguments: argparse.Namespace) -> tuple[Storage, RunSummary]:
    """The home's storage and how its run stands. Raises BadInput, with what to type, if there is no run."""
    storage = open_home(arguments)
    summary = summarise(storage)
    if summary is None:
        raise no_run(arguments.home)
    return storage, summary


def resume_command(home: str) -> str:
    """What goes on with a run: everything else comes from the run itself."""
    return f"dbr train --output_dir {shlex.quote(home)} --resume latest"


def no_run(home: str) -> BadInput:
    """The error that says where the run may be instead."""
    if "://" in home:
        parent = home.rstrip("/").rpartition("/")[0]
        fix = "name the home of a run" if parent.endswith("/") else f"dbr runs {parent} shows the runs there"
        return BadInput("there is no run here", where=home, fix=fix)
    path = Path(home)
    if not path.exists():
        return BadInput("there is no such folder", where=home, fix="dbr runs FOLDER shows the runs below a folder")
    if path.is_file():
        return BadInput("is a file; a run's home is a folder", where=home, fix="name the --output_dir of a run")
    if (above := next((folder for folder in path.parents if (folder / RUN).is_file()), None)) is not None:
        return BadInput("lies inside a run's home and is none", where=home, fix=f"name the home: {above}")
    if was_launched(path):
        return BadInput("was launched, and has not begun", where=home, fix=f"dbr status {shlex.quote(home)}")
    if (below := next(find_homes(path), None)) is not None:
        return BadInput(
            "there is no run here, but below it", where=home, fix=f"name one, such as {below}; dbr runs {home}"
        )
    return BadInput(
        "there is no run here", where=home, fix="name the --output_dir of a run; dbr runs FOLDER shows them"
    )
