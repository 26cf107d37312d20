"""`dbr report HOME`: one HTML file that tells everything about a run."""

from __future__ import annotations

from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, no_run, open_home
from dreambooth_resume.cli.output import print_json
from dreambooth_resume.cli.wording import count
from dreambooth_resume.cli.written import write_page
from dreambooth_resume.insight.facts import read_facts

_FILE = "report.html"


def run(words: list[str]) -> int:
    """Exit code 0, whatever state the run is in. Raises BadInput if HOME holds no run or FILE can't be written."""
    parser = CommandParser(
        "dbr report",
        description="One HTML file about a run: curves over all attempts with every interruption, pictures, timeline, "
        "cost, options, environment, and what is to be thought of it. It asks nobody for anything.",
        fix="dbr report HOME --out report.html",
    )
    add_home(parser)
    parser.add_argument("--out", metavar="FILE", default=_FILE, help=f"where to write it; {_FILE} here if left out")
    parser.add_argument("--json", action="store_true", help="print the facts for programs, and write no file")
    arguments = parser.parse_words(words)
    storage = open_home(arguments)
    facts = read_facts(storage)
    if facts is None:
        raise no_run(arguments.home)
    if arguments.json:
        print_json(facts)
        return 0
    from dreambooth_resume.insight.evaluation import read_evaluations
    from dreambooth_resume.insight.evaluation_chart import evaluation_sections
    from dreambooth_resume.insight.report import report

    fidelity = evaluation_sections(read_evaluations(storage, facts.curve.points))
    write_page(Path(arguments.out), report(storage, facts, extra=fidelity), where="--out")
    held = (
        count(len(facts.curve.points), "step"),
        count(len(facts.attempts), "attempt"),
        f"{count(len(facts.samples), 'set')} of pictures",
    )
    print(f"{arguments.out}: {', '.join(held)}")
    return 0
