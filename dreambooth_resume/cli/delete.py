"""`dbr delete HOME`: deletes a whole run."""

from __future__ import annotations

import argparse
from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, no_run, open_home
from dreambooth_resume.cli.output import files_shown, is_confirmed, print_columns, print_json, tell_at_once
from dreambooth_resume.cli.wording import count, size
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.runs.record import RunRecord, read_record
from dreambooth_resume.storage.base import Storage, StoredObject
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.delete import check_deletable, delete_run
from dreambooth_resume.workflows.holders import Waiting
from dreambooth_resume.workflows.inventory import (
    DELETION_ORDER,
    Inventory,
    picture_names,
    read_inputs,
    take_inventory,
    total_bytes,
)
from dreambooth_resume.workflows.left_here import LeftHere, find_left_here

_NAMED_MAX = 8


def run(words: list[str]) -> int:
    """Exit code 0, also where the user said no. Raises BadInput if there is no run, HolderAlive if somebody trains."""
    parser = CommandParser(
        "dbr delete",
        description="Delete a run: everything that dbr wrote into its home, checkpoints and copies of the pictures "
        "included, and of a home in S3 what this machine holds of it. Files of others stay. Asks first; refuses while "
        "somebody trains the run.",
        fix="dbr delete HOME, or dbr delete HOME --yes",
    )
    add_home(parser)
    parser.add_argument("--yes", action="store_true", help="don't ask")
    parser.add_argument(
        "--stage-dir", metavar="DIR", help="the run's folder on this machine, if its home is elsewhere and it had one"
    )
    parser.add_argument("--json", action="store_true", help="for programs; needs --yes")
    arguments = parser.parse_words(words)
    storage = open_home(arguments)
    inventory = take_inventory(storage)
    if not (inventory.ours["run"] or inventory.ours["log"]):
        raise no_run(arguments.home)
    check_deletable(storage)
    left = _left_here(storage, arguments)
    if not arguments.json:
        _show(storage, inventory, left)
    if not arguments.yes and not is_confirmed("Delete all of this for good? [y/N] ", command="dbr delete"):
        print("Nothing was deleted.")
        return 0
    with files_shown("deleting") as on_file:
        deleted = delete_run(storage, Waiting(tell=tell_at_once), on_file=on_file)
    # Last: as long as the home is there, somebody may want to go on from what was not committed.
    left.delete()
    if arguments.json:
        print_json({"home": storage.describe(), "deleted": deleted, "deleted_here": [str(file) for file in left.files]})
        return 0
    here = f", and {count(len(left.files), 'file')} on this machine" if left.files else ""
    print(f"Deleted the run in {storage.describe()}: {count(deleted.files, 'file')}, {size(deleted.size_bytes)}{here}.")
    if deleted.foreign:
        print(f"{_foreign(deleted.foreign)}: not dbr's, so still there.")
    return 0


def _left_here(storage: Storage, arguments: argparse.Namespace) -> LeftHere:
    if isinstance(storage, LocalStorage):
        return LeftHere(stages=(), files=())
    named = read_inputs(storage)
    pictures = [sha256 for picture in named.pictures for sha256 in picture.digests] if named else []
    stage_dir = Path(arguments.stage_dir).expanduser() if arguments.stage_dir else None
    return find_left_here(storage.describe(), _record(storage), pictures, stage_dir=stage_dir)


def _show(storage: Storage, inventory: Inventory, left: LeftHere) -> None:
    print(f"{storage.describe()}: {count(inventory.files, 'file')}, {size(inventory.size_bytes)}")
    rows = [
        (f"  {kind}", count(len(found), "file"), size(total_bytes(found)))
        for kind in DELETION_ORDER
        if (found := inventory.ours[kind])
    ]
    print_columns(rows)
    if pictures := _whose_pictures(storage):
        print(pictures)
    if left.files:
        places = ", ".join(str(stage) for stage in left.stages)
        print(f"On this machine: {count(len(left.files), 'file')}, {size(left.size_bytes)}, in {places}")
    elif not isinstance(storage, LocalStorage):
        print("Other machines, and folders named with --output_dir or --stage_dir, may hold fetched pictures too.")
    if inventory.foreign:
        print(f"{_foreign(inventory.foreign)}: not dbr's, stay.")


def _whose_pictures(storage: Storage) -> str | None:
    """What the copies in the home show, in the words that the user gave, and where they came from."""
    names = picture_names(storage)
    if not names:
        return None
    record = _record(storage)
    options = record.options if record else {}
    prompt, folder = options.get("instance_prompt"), options.get("instance_data_dir")
    what = f'of "{prompt}" ' if prompt else ""
    origin = f" (copied from {folder})" if folder else ""
    return f"Among it are the run's own copies of {count(len(names), 'picture')} {what}{_some(names)}{origin}."


def _record(storage: Storage) -> RunRecord | None:
    try:
        return read_record(storage)
    except RefusedToGoOn:
        return None  # damaged: the run may be deleted all the same


def _foreign(found: tuple[StoredObject, ...]) -> str:
    return f"{count(len(found), 'other file')}, {_some([one.key for one in found])}"


def _some(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(names[:_NAMED_MAX])
    return f"{shown} and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else shown
