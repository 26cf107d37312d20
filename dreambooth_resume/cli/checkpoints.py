"""`dbr checkpoints list|verify|pull|delete HOME`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_run
from dreambooth_resume.cli.output import bytes_shown, is_confirmed, print_columns, print_json, tell_at_once
from dreambooth_resume.cli.wording import count, size
from dreambooth_resume.errors import AccessDenied, BadInput, CheckpointDamaged, StorageUnavailable
from dreambooth_resume.runs.adoption import LATEST
from dreambooth_resume.runs.checkpoints import CheckpointInfo, find_checkpoint, list_checkpoints
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.home import CHECKPOINT_PREFIX
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.notes import post_note, read_notes
from dreambooth_resume.runs.pull import newest_checkpoint, pull_checkpoint
from dreambooth_resume.runs.verify import CheckpointReport, refs_to_verify, verify_checkpoints
from dreambooth_resume.storage.base import Storage

_EXAMPLES = "dbr checkpoints list HOME, verify HOME, pull HOME 500 DIR, or delete HOME 500"


def run(words: list[str]) -> int:
    """Exit code 0, or 78 if `verify` found damage. Raises BadInput, and what deleting raises."""
    parser = CommandParser(
        "dbr checkpoints",
        description="list: the checkpoints that exist, and those set aside. verify: read every file back and compare "
        "its size and SHA-256. pull: download one (the newest, unless one is named) into DIR, verified. delete: retire "
        "one in the log, then delete its files.",
        fix=_EXAMPLES,
    )
    parser.add_argument("action", choices=list(_ACTIONS), metavar="list|verify|pull|delete")
    add_home(parser)
    parser.add_argument(
        "words",
        metavar="CHECKPOINT",
        nargs="*",
        default=[],
        help="a step (500) or a name (checkpoint-500-a2); pull: then DIR",
    )
    parser.add_argument("--all", action="store_true", help="list: retired ones too")
    parser.add_argument("--no-note", action="store_true", help="verify: leave no note of damage in the home")
    parser.add_argument("--yes", action="store_true", help="delete: don't ask")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    arguments = parser.parse_words(words)
    storage, _ = open_run(arguments)
    return _ACTIONS[arguments.action](storage, arguments)


def _list(storage: Storage, arguments: argparse.Namespace) -> int:
    if arguments.words:
        raise BadInput("takes no CHECKPOINT", where="dbr checkpoints list", fix=_EXAMPLES)
    infos = list_checkpoints(read_log(storage))
    if arguments.json:
        print_json(infos)
        return 0
    shown = [info for info in infos if arguments.all or info.state != "retired"]
    if shown:
        head = ("checkpoint", "step", "attempt", "committed (UTC)", "size", "saved because", "state", "")
        print_columns([_row(info) for info in shown], head=head)
    else:
        print("No checkpoint yet.")
    if (hidden := len(infos) - len(shown)) > 0:
        print(f"and {count(hidden, 'retired one')}: --all")
    return 0


def _row(info: CheckpointInfo) -> Sequence[str]:
    marks = [
        *(["the newest: a resume begins here"] if info.is_newest and not info.is_result else []),
        *(["the result"] if info.is_result else []),
        *([info.note] if info.note else []),
    ]
    committed_at = info.committed_at.replace("T", " ").removesuffix("+00:00")
    return (
        info.folder,
        str(info.step),
        str(info.attempt),
        committed_at,
        size(info.size_bytes),
        info.reason,
        info.state,
        "; ".join(marks),
    )


def _verify(storage: Storage, arguments: argparse.Namespace) -> int:
    log = read_log(storage)
    reports = verify_checkpoints(storage, _chosen(log, arguments))
    damaged = [report for report in reports if report.problems]
    if not arguments.no_note:
        _leave_notes(storage, damaged)
    if arguments.json:
        print_json({"checkpoints": reports, "set_aside": list(log.set_aside.values()), "damaged": len(damaged)})
        return CheckpointDamaged.exit_code if damaged else 0
    print_columns([row for report in reports for row in _file_rows(report)])
    for aside in log.set_aside.values():
        if aside.number not in log.retired:
            print(f"{aside.folder} was set aside before: {aside.reason}")
    files = sum(len(report.files) for report in reports)
    if not damaged:
        print(f"{count(len(reports), 'checkpoint')}, {count(files, 'file')}: every byte is as it was committed.")
        return 0
    print(
        f"{len(damaged)} of {count(len(reports), 'checkpoint')} damaged. A resume sets them aside and takes the newest"
    )
    print(f"whole one. To delete one: dbr checkpoints delete {shlex.quote(storage.describe())} {damaged[0].folder}")
    return CheckpointDamaged.exit_code


def _chosen(log: Log, arguments: argparse.Namespace) -> Sequence[CheckpointRef]:
    if arguments.words:
        return [find_checkpoint(log, name, where=arguments.home) for name in arguments.words]
    return refs_to_verify(log)


def _leave_notes(storage: Storage, damaged: Sequence[CheckpointReport]) -> None:
    """So that `dbr history` tells it to everybody; a home that we may only read is verified all the same."""
    known = {(note.checkpoint, note.text) for note in read_notes(storage, "damage")} if damaged else set()
    for report in damaged:
        text = f"{report.folder}: {'; '.join(report.problems)}"
        if (report.number, text) in known:
            continue
        try:
            post_note(storage, "damage", text, checkpoint=report.number)
        except (AccessDenied, StorageUnavailable) as error:
            tell_at_once(f"No note of the damage was left: {error}")
            return


def _file_rows(report: CheckpointReport) -> list[Sequence[str]]:
    return [
        (file.key, size(file.size_bytes), "damaged" if file.problem else "ok", file.problem or "")
        for file in report.files
    ]


def _delete(storage: Storage, arguments: argparse.Namespace) -> int:
    if len(arguments.words) != 1:
        raise BadInput(
            "takes one CHECKPOINT", where="dbr checkpoints delete", fix=f"dbr checkpoints delete {arguments.home} 500"
        )
    from dreambooth_resume.workflows.holders import Waiting
    from dreambooth_resume.workflows.retire import choose, retire

    ref = choose(storage, arguments.words[0])
    size_bytes = sum(file.size_bytes for file in ref.files)
    what = f"{ref.folder} (step {ref.step}, {size(size_bytes)}) of {storage.describe()}"
    if not arguments.yes and not is_confirmed(f"Delete {what} for good? [y/N] ", command="dbr checkpoints delete"):
        print("Nothing was deleted.")
        return 0
    retire(storage, ref, Waiting(tell=tell_at_once))
    print_json({"deleted": ref}) if arguments.json else print(f"Deleted {what}.")
    return 0


def _pull(storage: Storage, arguments: argparse.Namespace) -> int:
    name, folder = _what_to_pull(arguments.words)
    log = read_log(storage)
    where = storage.describe()
    ref = newest_checkpoint(log, where=where) if name is None else find_checkpoint(log, name, where=where)
    with bytes_shown(ref.folder) as on_bytes:
        target = pull_checkpoint(storage, ref, folder, on_bytes=on_bytes)
    size_bytes = sum(file.size_bytes for file in ref.files)
    if arguments.json:
        print_json({"checkpoint": ref, "folder": str(target)})
        return 0
    print(f"{target}: step {ref.step}, {count(len(ref.files), 'file')}, {size(size_bytes)}, every byte verified.")
    print(f'Use it: pipe.load_lora_weights("{target}")')
    return 0


def _what_to_pull(words: Sequence[str]) -> tuple[str | None, Path]:
    """(checkpoint or None for the newest, folder). A single word is a checkpoint if it looks like one."""
    if len(words) > 2:
        raise BadInput(
            "takes CHECKPOINT and DIR", where="dbr checkpoints pull", fix="dbr checkpoints pull HOME 500 DIR"
        )
    is_named = bool(words) and (words[0] == LATEST or words[0].isdecimal() or words[0].startswith(CHECKPOINT_PREFIX))
    if len(words) == 2 and not is_named:
        fix = "a step such as 500, a name such as checkpoint-500-a2, or latest"
        raise BadInput(f"{words[0]} names no checkpoint", where="dbr checkpoints pull", fix=fix)
    rest = words[1:] if is_named else words
    return (words[0] if is_named and words[0] != LATEST else None), Path(rest[0] if rest else ".")


_ACTIONS: dict[str, Callable[[Storage, argparse.Namespace], int]] = {
    "list": _list,
    "verify": _verify,
    "pull": _pull,
    "delete": _delete,
}
