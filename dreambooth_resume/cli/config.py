"""`dbr config new [FILE]`: a commented YAML file with all options."""

from __future__ import annotations

from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.config.template import commented_yaml
from dreambooth_resume.errors import BadInput


def run(words: list[str]) -> int:
    parser = CommandParser(
        "dbr config",
        description="new: prints a commented YAML file with all options of `dbr train`, or writes it to FILE.",
        fix="dbr config new, or dbr config new run.yaml",
    )
    parser.add_argument("action", choices=["new"], metavar="new")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE")
    arguments = parser.parse_words(words)
    if arguments.file is None:
        print(commented_yaml(), end="")
        return 0
    _write_new(arguments.file)
    print(
        f"Wrote {arguments.file}. Fill in the required lines, then: dbr train --config {arguments.file} --resume latest"
    )
    return 0


def _write_new(path: Path) -> None:
    """Raises BadInput if the file is there already or can't be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(commented_yaml())
    except FileExistsError:
        raise BadInput(
            "is there already, and would be overwritten", where=str(path), fix="give another name, or remove it first"
        ) from None
    except OSError as error:
        raise BadInput(
            f"can't be written: {error.strerror}", where=str(path), fix="give a file in a folder that you may write to"
        ) from None
