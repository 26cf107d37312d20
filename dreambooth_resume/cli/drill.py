"""`dbr drill HOME`: a rehearsal of what the platform does at any time, with a stopwatch."""

from __future__ import annotations

import argparse
import shlex
from typing import cast

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_home
from dreambooth_resume.cli.output import is_confirmed, print_columns, print_json, tell_at_once
from dreambooth_resume.cli.wording import UNKNOWN, count
from dreambooth_resume.errors import StoppedOnPurpose
from dreambooth_resume.launch.base import Rehearsal
from dreambooth_resume.workflows.drill import WAIT_SECONDS, Drill, Drilled, Target, find_target

NOT_BACK_EXIT_CODE = 1


def run(words: list[str]) -> int:
    """Exit code 0 once the run trains again, 1 if it doesn't in time. Raises BadInput where nothing trains."""
    parser = CommandParser(
        "dbr drill",
        description="Interrupt a run that was launched, on purpose and for real, and measure how it comes back: local: "
        "SIGTERM or SIGKILL to the training; Slurm: the signal before a time limit, or SIGKILL to the step; AWS: an "
        "interruption by the Fault Injection Service, or a terminated machine. Asks first.",
        fix="dbr drill HOME --how notice",
    )
    add_home(parser)
    parser.add_argument("--how", choices=("notice", "kill"), default="notice", help="default: %(default)s")
    parser.add_argument("--yes", action="store_true", help="don't ask")
    parser.add_argument(
        "--wait", type=_seconds, default=WAIT_SECONDS, metavar="SECONDS", help="for its return; default: 900"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    how = cast(Rehearsal, arguments.how)
    storage = open_home(arguments)
    target = find_target(storage)
    if not arguments.yes and not is_confirmed(
        f"{_what(target, how)} Do it? [y/N] ", command="dbr drill", because="interrupts a training for real"
    ):
        print("Nothing was done.")
        return StoppedOnPurpose.exit_code
    drilled = Drill(storage=storage, target=target, how=how, tell=tell_at_once, wait_seconds=arguments.wait).run()
    if arguments.json:
        print_json(drilled)
    else:
        _print(drilled, wait_seconds=arguments.wait)
    return 0 if drilled.is_back else NOT_BACK_EXIT_CODE


def _what(target: Target, how: Rehearsal) -> str:
    losing = "it saves first, so no step is lost" if how == "notice" else "steps since its last save are trained again"
    return (
        f"Attempt {target.attempt} trains at step {target.step} by {target.launcher}, {target.job.name}. A {how} "
        f"interrupts it; {losing}."
    )


def _print(drilled: Drilled, *, wait_seconds: float) -> None:
    saved = "" if drilled.saved_step is None else f"step {drilled.saved_step}"
    back = "" if drilled.back_attempt is None else f"attempt {drilled.back_attempt}, from step {drilled.resumed_step}"
    rows = [
        ("sent", "0.0 s", drilled.sent),
        *([("noticed", _time(drilled.noticed_seconds), ""), ("saved", _time(drilled.saved_seconds), saved)]
          if drilled.how == "notice" else []),
        ("gone", _time(drilled.gone_seconds), f"attempt {drilled.attempt}, at step {drilled.reached_step}"),
        ("back", _time(drilled.back_seconds), back),
        ("first new step", _time(drilled.first_step_seconds), ""),
    ]  # fmt: skip
    print()
    print_columns(rows)
    home = shlex.quote(drilled.home)
    if drilled.finished:
        print("\nThe run finished before it could be interrupted.")
    elif drilled.is_back:
        lost = count(drilled.steps_lost or 0, "step")
        print(f"\nIt trains again after {drilled.first_step_seconds} s, with {lost} lost. dbr history {home}")
    else:
        print(
            f"\nIT DOES NOT TRAIN AGAIN after {wait_seconds:.0f} s. What was saved is safe. Look at it: dbr status "
            f"{home}; dbr logs {home}. Start it again: dbr resume {home}"
        )


def _time(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds} s"


def _seconds(text: str) -> float:
    if not text.isdecimal() or not 1 <= int(text) <= 86400:
        raise argparse.ArgumentTypeError(f"must be seconds from 1 to 86400, not {text[:20]}")
    return float(text)
