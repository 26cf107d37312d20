"""`dbr stop HOME`: asks whoever trains a run to save and stop."""

from __future__ import annotations

import shlex

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_run, resume_command
from dreambooth_resume.cli.output import print_json, tell_at_once
from dreambooth_resume.errors import StoppedOnPurpose
from dreambooth_resume.runs.control import POLL_SECONDS, Request, post_request
from dreambooth_resume.runs.summary import RunSummary
from dreambooth_resume.workflows.holders import Waiting, holder_of


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
    storage, summary = open_run(arguments)
    is_held = holder_of(storage, summary, Waiting(tell=tell_at_once)) is not None
    # A request that nobody reads would stop the next attempt, so it is left only where somebody holds the run.
    request = post_request(storage, "stop") if is_held else None
    if arguments.json:
        print_json({"asked": request is not None, "request": request, "summary": summary})
    else:
        print(_what_happens(summary, request))
    return 0


def _what_happens(summary: RunSummary, request: Request | None) -> str:
    home = summary.home
    if request is not None:
        where = f" (pid {summary.process.pid} on {summary.process.host})" if summary.process else ""
        return (
            f"Asked attempt {summary.attempt}{where} to stop. It looks within {POLL_SECONDS:.0f} s, saves at the end "
            f"of its step and ends with exit code {StoppedOnPurpose.exit_code}; nobody restarts it.\n"
            f"Watch it: dbr status {shlex.quote(home)}\nGo on later: {resume_command(home)}"
        )
    if summary.state == "finished":
        return f"The run in {home} is finished; there is nothing to stop."
    if summary.state == "starting":
        return f"The run in {home} is only just being started; ask again in a minute, or press Ctrl-C there."
    return (
        f"Nobody trains the run in {home} ({summary.state}: {summary.because}); nothing was written.\n"
        f"Go on with it: {resume_command(home)}"
    )
