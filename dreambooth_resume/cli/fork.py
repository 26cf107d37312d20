"""`dbr fork HOME --step 300 --to NEW`: begins a new run from a checkpoint of another one."""

from __future__ import annotations

import shlex
from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_run, s3_settings
from dreambooth_resume.cli.output import files_shown, print_json, tell_at_once
from dreambooth_resume.cli.wording import count, size
from dreambooth_resume.config.load import GivenOptions, parse_train
from dreambooth_resume.errors import BadInput
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.probe import probe
from dreambooth_resume.storage.urls import open_storage
from dreambooth_resume.workflows.fork import fork_run
from dreambooth_resume.workflows.holders import Waiting
from dreambooth_resume.workflows.home import Place


def run(words: list[str]) -> int:
    """Exit code 0, also where an earlier call had made this fork. Raises BadInput for a home that holds another run."""
    parser = CommandParser(
        "dbr fork",
        description="Begin a new run in another home from a checkpoint of this one: the checkpoint, the pictures and "
        "what was computed from them are copied, every byte compared; nothing is trained. `dbr train --output_dir NEW "
        "--resume latest` then goes on there. Interrupted, the same command goes on.",
        fix="dbr fork HOME --step 300 --to NEW",
    )
    add_home(parser)
    parser.add_argument("--to", metavar="NEW", required=True, help="home of the new run: a folder or s3://BUCKET/NAME")
    parser.add_argument("--step", metavar="STEP", help="a step or a checkpoint's name; left out: the newest")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an option of train that the new run has otherwise",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    given = _given(arguments.set)
    source, _ = open_run(arguments)
    target = _target(arguments.to, open_storage(arguments.to, s3_settings(arguments)))
    probe(target.storage, allow_unfenced=False)
    with files_shown("copying") as on_file:
        forked = fork_run(
            source,
            target,
            step=None if arguments.step in (None, "latest") else arguments.step,
            given=given,
            waiting=Waiting(tell=tell_at_once),
            on_file=on_file,
        )
    if arguments.json:
        print_json({"home": target.storage.describe(), "forked": forked})
        return 0
    done = "Forked" if forked.is_new else "Forked already"
    print(
        f"{done}: {target.storage.describe()} begins at step {forked.step} of {forked.origin} "
        f"({count(forked.files, 'file')}, {size(forked.size_bytes)}, every byte compared).\n"
        f"Go on: dbr train --output_dir {shlex.quote(arguments.to)} --resume latest"
    )
    return 0


def _given(assignments: list[str]) -> GivenOptions:
    """The options as `dbr train` would read them. Raises BadInput for what isn't NAME=VALUE."""
    words = []
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise BadInput("an option is set as NAME=VALUE", where=f"--set {name[:40]}", fix="--set learning_rate=5e-5")
        words.append(f"--{name.strip()}={value}")
    return parse_train(words)


def _target(address: str, storage: Storage) -> Place:
    return Place(storage=storage, stage=Path(address), flag=f"--to {address}")
