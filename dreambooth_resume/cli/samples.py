"""`dbr samples HOME`: the pictures that a run made, and all of them side by side in one."""

from __future__ import annotations

from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.homes import add_home, open_run
from dreambooth_resume.cli.output import print_columns, print_json
from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.samples import SampleSet, read_samples
from dreambooth_resume.workflows.sample_grid import sample_grid


def run(words: list[str]) -> int:
    """Exit code 0, also where there are none. Raises BadInput for no run, and for a grid of no pictures."""
    parser = CommandParser(
        "dbr samples",
        description="List the pictures that were made while the run trained; with --grid, draw them into one picture: "
        "a row for each step, a column for each prompt and seed.",
        fix="dbr samples HOME --grid samples.png",
    )
    add_home(parser)
    parser.add_argument("--grid", metavar="FILE", help="write a PNG with all of them")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_words(words)
    storage, _ = open_run(arguments)
    found = read_samples(storage)
    if arguments.grid:
        path = Path(arguments.grid).expanduser()
        if not found:
            raise BadInput("the run has made no pictures yet", where="--grid", fix="dbr sample-now HOME makes some")
        try:
            path.write_bytes(sample_grid(storage, found, title=storage.describe()))
        except OSError as error:
            raise BadInput(
                f"can't be written: {error.strerror or error}", where=f"--grid {path}", fix="name another file"
            ) from error
    if arguments.json:
        print_json(found)
        return 0
    if found:
        print_columns([_row(one) for one in found], head=("step", "attempt", "pictures", "folder", "prompts", ""))
    else:
        print("No pictures yet.")
    return 0


def _row(one: SampleSet) -> tuple[str, ...]:
    prompts = list(dict.fromkeys(one.prompts))
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    remark = "the result" if one.is_final else "asked for" if one.asked else ""
    folder = one.pictures[0].rpartition("/")[0] if one.pictures else ""
    return str(one.step), str(one.attempt), str(len(one.pictures)), folder, f"{one.prompt[:60]}{more}", remark
