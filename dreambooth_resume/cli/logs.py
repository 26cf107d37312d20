"""`dbr logs HOME [-f]`: what a launched run printed, or a launched evaluation of it."""

from __future__ import annotations

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_home
from dreambooth_resume.launch.base import Purpose
from dreambooth_resume.workflows.launched import output_of


def run(words: list[str]) -> int:
    """Prints the output of the newest launch. Raises BadInput if HOME was never launched."""
    parser = CommandParser(
        "dbr logs",
        description="What a launched run printed, on whichever machine it is or was.",
        fix="dbr logs HOME, with the home of a run that dbr launch started",
    )
    add_home(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="wait for more, until the job has ended")
    parser.add_argument(
        "--eval", action="store_true", help="of the newest evaluation that was launched (dbr eval --on)"
    )
    arguments = parser.parse_words(words)
    purpose: Purpose = "eval" if arguments.eval else "train"
    for line in output_of(open_home(arguments), follow=arguments.follow, purpose=purpose):
        print(line, flush=arguments.follow)
    return 0
