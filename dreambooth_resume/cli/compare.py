"""`dbr compare A B`: how two runs differ, and whether it made a difference."""

from __future__ import annotations

from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import HOME_HELP, add_s3_options, no_run, s3_settings
from dreambooth_resume.cli.output import print_columns, print_json
from dreambooth_resume.cli.wording import UNKNOWN
from dreambooth_resume.cli.written import write_page
from dreambooth_resume.insight.compare import Comparison, Difference, compare, comparison_page, verdict
from dreambooth_resume.insight.facts import RunFacts, read_facts
from dreambooth_resume.storage.urls import open_storage

_LONGEST = 44


def run(words: list[str]) -> int:
    """Exit code 0, whatever differs. Raises BadInput if A or B holds no run, or FILE can't be written."""
    parser = CommandParser(
        "dbr compare",
        description="Two runs side by side: the options that differ, their losses over the same steps, and what came "
        "out.",
        fix="dbr compare runs/dog runs/dog-2",
    )
    parser.add_argument("first", metavar="A", help=HOME_HELP)
    parser.add_argument("second", metavar="B", help="another one")
    add_s3_options(parser)
    parser.add_argument("--html", metavar="FILE", help="write a page with both losses over each other")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    found: list[RunFacts] = []
    for home in (arguments.first, arguments.second):
        facts = read_facts(open_storage(home, s3_settings(arguments)))
        if facts is None:
            raise no_run(home)
        found.append(facts)
    first, second = found
    if arguments.html:
        write_page(Path(arguments.html), comparison_page(first, second), where="--html")
    comparison = compare(first, second)
    if arguments.json:
        print_json(comparison)
        return 0
    _print(comparison)
    return 0


def _print(found: Comparison) -> None:
    print(f"A  {found.first}\nB  {found.second}\n")
    print_columns([_row(row) for row in found.results], head=("", "A", "B"))
    print(f"\n{verdict(found)}\n")
    if found.options:
        rows = [(*_row(row), _cell(row.default)) for row in found.options]
        print_columns(rows, head=("option", "A", "B", "default"))
    else:
        print("No option differs.")
    if found.inputs:
        print()
        print_columns([_row(row) for row in found.inputs], head=("input or environment", "A", "B"))
    if found.losses:
        print()
        losses = [
            (f"{row.from_step:,} to {row.to_step:,}", _loss(row.first), _loss(row.second), _by(row.first, row.second))
            for row in found.losses
        ]
        print_columns(losses, head=("mean loss of steps", "A", "B", "B - A"))


def _row(row: Difference) -> tuple[str, str, str]:
    return row.name, _cell(row.first), _cell(row.second)


def _cell(value: object) -> str:
    told = UNKNOWN if value is None else str(value)
    return told if len(told) <= _LONGEST else f"{told[: _LONGEST - 1]}…"


def _loss(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def _by(first: float | None, second: float | None) -> str:
    return "" if first is None or second is None else f"{second - first:+.4f}"
