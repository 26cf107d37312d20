"""`dbr stop HOME`: asks whoever trains a run to save and stop."""

from __future__ import annotations

import shlex

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, no_run, open_home, resume_command
from dreambooth_resume.cli.output import print_json, tell_at_once
from dreambooth_resume.errors import StoppedOnPurpose
from dreambooth_resume.runs.control import POLL_SECONDS
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.workflows.holders import Waiting
from dreambooth_resume.workflows.launched import Stop, live_jobs, stop_run


def run(words: list[str]) -> int:
    """Exit code 0, also where nobody trains: then nothing is written. Raises BadInput if HOME holds no run."""
    parser = CommandParser(
        "dbr stop",
        description="Ask the process that trains a run to save and stop, on whichever machine it is.",
        fix="dbr stop HOME, with the --output_dir of a run",
    )
    add_home(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    storage = open_home(arguments)
    summary = summarise(storage)
    if summary is None and not live_jobs(storage):
        raise no_run(arguments.home)
    done = stop_run(storage, summary, Waiting(tell=tell_at_once))
    if arguments.json:
        is_asked = done.request is not None or bool(done.interrupted)
        print_json({"asked": is_asked, "request": done.request, "jobs": done.interrupted, "summary": summary})
    else:
        print(_what_happens(storage.describe(), summary, done))
    return 0


def _what_happens(home: str, summary: RunSummary | None, done: Stop) -> str:
    code = StoppedOnPurpose.exit_code
    watch = f"Watch it: dbr status {shlex.quote(home)}"
    if done.interrupted:
        return (
            f"Told {', '.join(done.interrupted)} to stop: what trains saves at the end of its step and ends with exit "
            f"code {code}; nobody restarts it.\n{watch}\nGo on later: dbr resume {shlex.quote(home)}"
        )
    if summary is None:
        return f"The run in {home} had not begun, and what was launched for it is given back."
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
