"""`dbr gc HOME`: clears a home of what no log entry names."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_run, resume_command
from dreambooth_resume.cli.output import files_shown, print_columns, print_json, tell_at_once
from dreambooth_resume.cli.wording import count, size
from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.workflows.gc import Unnamed, collect_unnamed, find_unnamed
from dreambooth_resume.workflows.holders import Waiting, refuse_if_held


def run(words: list[str]) -> int:
    """Lists what may go, and with --yes deletes it. Raises BadInput for no run, HolderAlive if somebody trains it."""
    parser = CommandParser(
        "dbr gc",
        description="Show what lies in a home and is named by nothing: files of checkpoints that were never committed "
        "or are retired, pictures and cached latents that the run doesn't use, what starts have left that were killed "
        "days ago. With --yes, delete it, and unfinished uploads too. Every start of the run clears checkpoint "
        "files by itself.",
        fix="dbr gc HOME to look, dbr gc HOME --yes to delete",
    )
    add_home(parser)
    parser.add_argument("--yes", action="store_true", help="delete what is listed")
    parser.add_argument(
        "--uncommitted-too", action="store_true", help="also what the next start of the run would go on from"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    storage, summary = open_run(arguments)
    if arguments.yes:
        refuse_if_held(storage, summary, to="clear its home")
    with files_shown("looking") as on_file:
        found = find_unnamed(storage, read_log(storage), on_file=on_file)
    if not arguments.json:
        _show(found)
    if not arguments.yes:
        if arguments.json:
            print_json({"unnamed": found, "deleted": []})
        elif found:
            print(f"Nothing was deleted. To do so: dbr gc {shlex.quote(summary.home)} --yes")
        return 0
    if not arguments.uncommitted_too:
        _refuse_what_is_wanted(found, summary.home)
    with files_shown("deleting") as on_file:
        gone = collect_unnamed(storage, found, Waiting(tell=tell_at_once), on_file=on_file)
    if arguments.json:
        print_json({"unnamed": found, "deleted": gone})
    else:
        print(f"Deleted {count(len(gone), 'file')}, {_size(gone)}, and unfinished uploads if there were any.")
    return 0


def _refuse_what_is_wanted(found: Sequence[Unnamed], home: str) -> None:
    wanted = next((one.key.partition("/")[0] for one in found if one.is_wanted), None)
    if wanted is not None:
        raise BadInput(
            f"{wanted} is whole, though not committed: the next start goes on from it, and can't once gc was here",
            where=home,
            fix=f"{resume_command(home)}; or --uncommitted-too to give it up, and nothing was deleted yet",
        )


def _show(found: Sequence[Unnamed]) -> None:
    if not found:
        print("Everything in this home is named by its log or its lists.")
        return
    print_columns([(one.key, size(one.size_bytes), one.why) for one in found])
    print(f"{count(len(found), 'file')}, {_size(found)}, that nothing names.")


def _size(found: Sequence[Unnamed]) -> str:
    return size(sum(one.size_bytes for one in found))
