"""`dbr logs HOME [-f]`: what a launched run printed."""

from __future__ import annotations

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_home
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
    arguments = parser.parse_words(words)
    for line in output_of(open_home(arguments), follow=arguments.follow):
        print(line, flush=arguments.follow)
    return 0
