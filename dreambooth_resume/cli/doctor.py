"""`dbr doctor`: everything that could stop a run later, found before it is begun."""

from __future__ import annotations

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.ending import ended_as_by_ctrl_c
from dreambooth_resume.cli.output import print_json
from dreambooth_resume.cli.train_words import own_and_train
from dreambooth_resume.config.load import parse_train
from dreambooth_resume.errors import BadInput
from dreambooth_resume.insight.findings import Diagnosis, Finding
from dreambooth_resume.workflows.doctor import examine

_EXAMPLE = "dbr doctor --config run.yaml"


def run(words: list[str]) -> int:
    """Prints what was found; 2 if something is fatal. Raises BadInput without the options of a run."""
    parser = CommandParser(
        "dbr doctor",
        description="Look for everything that could stop a run later: options, pictures, the base model and the right "
        "to fetch it, the home and every permission in it, disk, GPU, driver and memory, clock, notices. Takes "
        "--config and every option of dbr train. At most 20 s; nothing is left behind. Exit code 2 if something is "
        "fatal. Not run on a GPU or against the public Hub so far.",
        fix=_EXAMPLE,
    )
    parser.add_argument("--config", metavar="FILE", help="a run file; other options of dbr train may follow")
    parser.add_argument(
        "--deep", action="store_true", help="train real steps, and write, resume and verify a checkpoint"
    )
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    own, train = own_and_train(parser, words)
    arguments = parser.parse_words(own)
    if not train:
        raise BadInput("needs a run file, or the options of a run", where="dbr doctor", fix=_EXAMPLE)
    problems: list[BadInput] = []
    given = parse_train(train, on_problem=problems.append)
    with ended_as_by_ctrl_c():
        found = examine(given, tuple(problems), deep=arguments.deep)
    if arguments.json:
        print_json({**_shown(found), "is_fatal": found.is_fatal})
    else:
        for finding in found.findings:
            print("\n".join(_told(finding)))
        print(
            f"\n{len(found.of('fatal'))} fatal, {len(found.of('warning'))} to look at, {len(found.of('fine'))} fine; "
            f"{found.seconds:.1f} s"
        )
    return BadInput.exit_code if found.is_fatal else 0


def _shown(found: Diagnosis) -> dict[str, object]:
    return {"findings": found.findings, "seconds": found.seconds}


def _told(finding: Finding) -> list[str]:
    where = f" ({finding.where})" if finding.where else ""
    lines = [f"{finding.severity:<8} {finding.about + ':':<12} {finding.what}{where}"]
    if finding.fix:
        lines.append(f"{'':<22}fix: {finding.fix}")
    return lines
