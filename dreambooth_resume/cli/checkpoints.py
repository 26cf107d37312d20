"""`dbr checkpoints list|verify|delete HOME`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import open_run
from dreambooth_resume.cli.output import print_columns, print_json
from dreambooth_resume.cli.wording import count, size
from dreambooth_resume.errors import BadInput, CheckpointDamaged
from dreambooth_resume.runs.checkpoints import CheckpointInfo, find_checkpoint, list_checkpoints
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.verify import CheckpointReport, refs_to_verify, verify_checkpoints
from dreambooth_resume.storage.base import Storage

_EXAMPLES = "dbr checkpoints list HOME, verify HOME, or delete HOME 500"


def run(words: list[str]) -> int:
    """Exit code 0, or 78 if `verify` found damage. Raises BadInput, and what deleting raises."""
    parser = CommandParser(
        "dbr checkpoints",
        description="list: the checkpoints that exist, and those set aside. verify: read every file back and compare "
        "its size and SHA-256. delete: retire one in the log, then delete its files.",
        fix=_EXAMPLES,
    )
    parser.add_argument("action", choices=["list", "verify", "delete"], metavar="list|verify|delete")
    parser.add_argument("home", metavar="HOME", help="the run's folder (its --output_dir)")
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", nargs="*", help="a step (500) or a name (checkpoint-500-a2)"
    )
    parser.add_argument("--all", action="store_true", help="list: retired ones too")
    parser.add_argument("--yes", action="store_true", help="delete: don't ask")
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    arguments = parser.parse_words(words)
    storage, _ = open_run(arguments.home)
    action = {"list": _list, "verify": _verify, "delete": _delete}[arguments.action]
    return action(storage, arguments)


def _list(storage: Storage, arguments: argparse.Namespace) -> int:
    if arguments.checkpoint:
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
    if arguments.checkpoint:
        return [find_checkpoint(log, name, where=arguments.home) for name in arguments.checkpoint]
    return refs_to_verify(log)


def _file_rows(report: CheckpointReport) -> list[Sequence[str]]:
    return [
        (file.key, size(file.size_bytes), "damaged" if file.problem else "ok", file.problem or "")
        for file in report.files
    ]


def _delete(storage: Storage, arguments: argparse.Namespace) -> int:
    if len(arguments.checkpoint) != 1:
        raise BadInput(
            "takes one CHECKPOINT", where="dbr checkpoints delete", fix=f"dbr checkpoints delete {arguments.home} 500"
        )
    # Only here: deleting needs the checkpoint layer, and with it torch.
    from dreambooth_resume.workflows.retire import Waiting, choose, retire

    ref = choose(storage, arguments.checkpoint[0])
    size_bytes = sum(file.size_bytes for file in ref.files)
    what = f"{ref.folder} (step {ref.step}, {size(size_bytes)}) of {storage.describe()}"
    if not arguments.yes and not _confirmed(f"Delete {what} for good? [y/N] "):
        print("Nothing was deleted.")
        return 0
    retire(storage, ref, Waiting(tell=_tell_at_once))
    print_json({"deleted": ref}) if arguments.json else print(f"Deleted {what}.")
    return 0


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise BadInput(
            "deletes for good, and nobody is there to be asked", where="dbr checkpoints delete", fix="add --yes"
        )
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _tell_at_once(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
