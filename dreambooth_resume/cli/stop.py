"""`dbr stop HOME`: asks whoever trains a run to save and stop."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, no_run, open_home, resume_command
from dreambooth_resume.cli.output import print_json, tell_at_once
from dreambooth_resume.errors import ComeBack, DbrError, StoppedOnPurpose
from dreambooth_resume.launch.record import read_launches
from dreambooth_resume.runs.control import POLL_SECONDS
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.holders import Waiting
from dreambooth_resume.workflows.launched import live_jobs
from dreambooth_resume.workflows.stopping import Stop, stop_evaluations, stop_run


def run(words: list[str]) -> int:
    """Exit code 0, also where nobody trains: then nothing is written; 75 where something could not be given back.

    Raises BadInput if HOME holds no run.
    """
    parser = CommandParser(
        "dbr stop",
        description="Ask the process that trains a run to save and stop, on whichever machine it is.",
        fix="dbr stop HOME, with the --output_dir of a run",
    )
    add_home(parser)
    parser.add_argument(
        "--eval", action="store_true", help="end what was launched to evaluate it (dbr eval --on), not the training"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    storage = open_home(arguments)
    if arguments.eval:
        return _stop_evaluations(storage, as_json=arguments.json)
    summary = summarise(storage)
    if summary is None and not read_launches(storage):
        raise no_run(arguments.home)
    done = stop_run(storage, summary, Waiting(tell=tell_at_once))
    if arguments.json:
        is_asked = done.request is not None or bool(done.interrupted)
        print_json({
            "asked": is_asked, "request": done.request, "jobs": done.interrupted, "summary": summary,
            "not_given_back": done.not_given_back,
        })  # fmt: skip
    else:
        print(_what_happens(storage.describe(), summary, done))
    # What costs money is said before anybody is asked again.
    code = _given_back(done.not_given_back, again=f"dbr stop {shlex.quote(storage.describe())}")
    if done.not_withdrawn is not None:
        tell_at_once(
            "The request to stop may still lie in the home: then the next dbr train there ends with exit code "
            f"{StoppedOnPurpose.exit_code}, and the one after it goes on."
        )
        raise done.not_withdrawn
    if not arguments.json:
        with contextlib.suppress(DbrError):
            _say_evaluations(storage)
    return code


def _say_evaluations(storage: Storage) -> None:
    for one in live_jobs(storage, "eval"):
        assert one.launch.job is not None
        print(f"An evaluation goes on ({one.launch.job.name}): dbr stop {shlex.quote(storage.describe())} --eval")


def _stop_evaluations(storage: Storage, *, as_json: bool) -> int:
    done, home = stop_evaluations(storage), storage.describe()
    if as_json:
        print_json({"jobs": done.told, "not_given_back": done.not_given_back})
    elif done.told:
        print(
            f"Told {', '.join(done.told)} to end; every score so far is in the home.\n"
            f"Look at them: dbr eval {shlex.quote(home)} --show"
        )
    elif not done.not_given_back:
        print(f"No evaluation that was launched for {home} runs.")
    return _given_back(done.not_given_back, again=f"dbr stop {shlex.quote(home)} --eval")


def _given_back(not_given_back: Sequence[str], *, again: str) -> int:
    """The exit code, and what may cost money on."""
    if not not_given_back:
        return 0
    for one in not_given_back:
        tell_at_once(f"Not given back, and it may cost money: {one}")
    tell_at_once(f"Once that is mended, type the same again: {again}")
    return ComeBack.exit_code


def _what_happens(home: str, summary: RunSummary | None, done: Stop) -> str:
    code = StoppedOnPurpose.exit_code
    watch = f"Watch it: dbr status {shlex.quote(home)}"
    if done.interrupted:
        return (
            f"Told {', '.join(done.interrupted)} to stop: what trains saves at the end of its step and ends with exit "
            f"code {code}; nobody restarts it.\n{watch}\nGo on later: dbr resume {shlex.quote(home)}"
        )
    if summary is None:
        given_back = "could not all be given back" if done.not_given_back else "is given back"
        return f"The run in {home} had not begun, and what was launched for it {given_back}."
    if done.request is not None:
        where = f" (pid {summary.process.pid} on {summary.process.host})" if summary.process else ""
        return (
            f"Asked attempt {summary.attempt}{where} to stop. It looks within {POLL_SECONDS:.0f} s, saves at the end "
            f"of its step and ends with exit code {code}; nobody restarts it.\n"
            f"{watch}\nGo on later: {resume_command(home)}"
        )
    if summary.state == "finished":
        return f"The run in {home} is finished; there is nothing to stop."
    if summary.state == "starting":
        return f"The run in {home} is only just being started; ask again in a minute, or press Ctrl-C there."
    return (
        f"Nobody trains the run in {home} ({summary.state}: {summary.because}); nothing was written.\n"
        f"Go on with it: {resume_command(home)}"
    )
