"""`dbr launch WHERE`: starts a run in the background here, or on other machines; `dbr launch list` shows them all."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dreambooth_resume.cli.output import print_columns, print_json, tell_at_once
from dreambooth_resume.config.messages import plain
from dreambooth_resume.config.option import Option
from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.launchers import LAUNCHERS, settings_options
from dreambooth_resume.launch.local import session_warnings
from dreambooth_resume.workflows.launch import Prepared, plan, prepare, start
from dreambooth_resume.workflows.launched import clean_up, list_launches

_LIST, _YES = "list", "--yes"
_CLEAN_UP = ("--clean-up", "--clean_up")
_HEAD = ("home", "what", "where", "job", "state", "run", "launched (UTC)", "")


def run(words: list[str]) -> int:
    """Exit code 0 once the job is started. Raises BadInput before anything is made for what can't work."""
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else BadInput.exit_code
    where, *rest = words
    if where == _LIST:
        return _list(rest)
    if any(word in ("-h", "--help") for word in rest):
        print(_launcher_help(where))
        return 0
    if any(word in _CLEAN_UP for word in rest):
        return _clean_up(where, [word for word in rest if word not in _CLEAN_UP])
    is_dry_run = any(word in ("--dry-run", "--dry_run") for word in rest)
    prepared = prepare(where, [word for word in rest if word not in ("--dry-run", "--dry_run")], tell=tell_at_once)
    if is_dry_run:
        print(plan(prepared))
        return 0
    launch(prepared)
    return 0


def launch(prepared: Prepared) -> None:
    """Start it, and say how to look at it."""
    if prepared.where == "local":
        for warning in session_warnings():
            tell_at_once(f"warning: {warning}")
    job = start(prepared, tell_at_once)
    home = shlex.quote(prepared.request.home)
    print(f"Launched on {prepared.where}: {job.name}")
    if prepared.request.purpose == "eval":
        print(
            f"Watch it: dbr logs {home} --eval -f   its scores so far: dbr eval {home} --show\n"
            f"End it: dbr stop {home} --eval   go on later: the same command"
        )
        return
    print(
        f"Watch it: dbr status {home}   its output: dbr logs {home} -f\n"
        f"Save and stop: dbr stop {home}   go on later: dbr resume {home}"
    )


def _list(words: Sequence[str]) -> int:
    if [word for word in words if word != "--json"]:
        raise BadInput("takes nothing but --json", where="dbr launch list", fix="dbr launch list")
    found = list_launches()
    if "--json" in words:
        print_json(found)
    elif found:
        rows = [
            (
                *(one.home, one.purpose, one.launcher, one.job, one.state, one.run),
                one.launched_at.replace("T", " ")[:19],
                one.because,
            )
            for one in found
        ]
        print_columns(rows, head=_HEAD)
    else:
        print("Nothing was launched from this machine. dbr launch local --config run.yaml does it here.")
    return 0


def _clean_up(where: str, words: Sequence[str]) -> int:
    """Show what launches have left on a platform; with --yes, remove it."""
    done = clean_up(where, [word for word in words if word != _YES], remove=_YES in words)
    rows = [
        (
            one.kind,
            one.name,
            one.home,
            one.state,
            "removed"
            if one in done.removed
            else f"in use; to end it: dbr stop {shlex.quote(one.home)}"
            if one.is_in_use
            else "left over",
        )
        for one in done.found
    ]
    if rows:
        print_columns(rows, head=("what", "name", "for", "state", ""))
    left = len(done.found) - len(done.removed) - sum(one.is_in_use for one in done.found)
    if left:
        print(f"Remove {left}: dbr launch {where} --clean-up {_YES}")
    elif not rows:
        print(f"Nothing of any launch is there on {where}.")
    return 0


def _help() -> str:
    launchers = "\n".join(f"  {name:<12} {about}" for name, (_, _, about) in LAUNCHERS.items())
    return f"""\
usage: dbr launch WHERE [--config FILE] [--OPTION VALUE ...] [--dry-run]
       dbr launch list [--json]
       dbr launch WHERE --clean-up [--yes]

Starts a run, or goes on with it, on a machine of its own or in the background here. Everything is
looked at first; the home then gets what an empty machine needs, and the machine runs `dbr supervise`.
--dry-run prints exactly what would be sent, and makes nothing. Options are those of dbr train.
--clean-up lists what launches have left on a platform, and with --yes removes what nothing runs in.

where
{launchers}
`dbr launch WHERE --help` shows its own options.

  dbr launch local --config run.yaml"""


def _launcher_help(where: str) -> str:
    options = settings_options(where)
    about = LAUNCHERS[where][2]
    own = "\n".join(_option_help(option) for option in options.values())
    return f"usage: dbr launch {where} [--OPTION VALUE ...] [--dry-run]\n\n{where}: {about}.\n\nits own options\n{own}"


def _option_help(option: Option) -> str:
    flag = f"--{option.name.replace('_', '-')}"
    shown = f"{flag}, --no-{flag[2:]}" if option.kind == "bool" else f"{flag} {option.placeholder}"
    return f"  {shown}\n      {option.help} [default {plain(option.default)}]"
