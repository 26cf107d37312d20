"""`dbr runs [FOLDER]`: one line for each run in a folder or a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_s3_options, s3_settings
from dreambooth_resume.cli.output import print_columns, print_json
from dreambooth_resume.cli.wording import UNKNOWN, ago
from dreambooth_resume.runs.registry import FoundRun, find_runs

DEFAULT_FOLDER = "runs"
_HEAD = ("run", "state", "step", "durable", "saved", "loss", "samples/s", "attempt", "again", "")


def run(words: list[str]) -> int:
    """Prints the runs; exit code 0 also where there are none. Raises BadInput if FOLDER isn't a folder."""
    parser = CommandParser(
        "dbr runs",
        description="One line for each run in a folder, or in s3://BUCKET/NAME, and below.",
        fix="dbr runs FOLDER, with the folder that holds your output folders",
    )
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="where to look (default: ./runs, else here)")
    add_s3_options(parser)
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    arguments = parser.parse_words(words)
    folder = arguments.folder or (DEFAULT_FOLDER if Path(DEFAULT_FOLDER).is_dir() else ".")
    found = find_runs(folder, s3_settings(arguments))
    if arguments.json:
        print_json(found)
    elif found:
        print_columns([_row(one) for one in found], head=_HEAD)
    else:
        print(f"No run in {folder}. A run is the --output_dir of a dbr train; dbr demo makes one.")
    return 0


def _row(found: FoundRun) -> Sequence[str]:
    summary = found.summary
    if summary is None:
        return (found.home, "unreadable", *[UNKNOWN] * 7, found.problem or "")
    rate = summary.samples_per_second
    return (
        found.home,
        summary.state,
        f"{summary.step}/{summary.max_train_steps or '?'}",
        str(summary.durable_step or UNKNOWN),
        ago(summary.durable_age_seconds),
        UNKNOWN if summary.loss is None else f"{summary.loss:.4f}",
        UNKNOWN if rate is None else f"{rate:.1f}",
        str(summary.attempt or UNKNOWN),
        str(summary.redone_steps or UNKNOWN),
        f"ALARM: {summary.alarm}" if summary.alarm else "",
    )
