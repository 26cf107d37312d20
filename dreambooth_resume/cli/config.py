"""`dbr config new`: a commented YAML file with all options; `dbr config import FILE`: one from another trainer's."""

from __future__ import annotations

import sys
from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.config.importing.read import read_file
from dreambooth_resume.config.importing.written import imported_yaml, report
from dreambooth_resume.config.template import commented_yaml
from dreambooth_resume.errors import BadInput

_DESCRIPTION = """\
new: prints a commented YAML file with all options of `dbr train`, or writes it to FILE.
import: makes one from another trainer's FILE: a shell script (or a line) that runs Diffusers'
train_dreambooth_lora_sdxl.py or its advanced one, or kohya's sdxl_train_network.py, or a TOML of
kohya's, options or data sets. Says what has no counterpart, what means something else here, and
what is the default anyway. Nothing in FILE is run."""


def run(words: list[str]) -> int:
    parser = CommandParser(
        "dbr config",
        description=_DESCRIPTION,
        fix="dbr config new run.yaml, or dbr config import train.sh run.yaml",
    )
    parser.add_argument("action", choices=["new", "import"], metavar="new|import")
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE")
    parser.add_argument("to", nargs="?", type=Path, metavar="run.yaml", help="import: where to write (default: print)")
    arguments = parser.parse_words(words)
    if arguments.action == "import":
        return _import(arguments.file, arguments.to)
    if arguments.to is not None:
        raise BadInput("one file is written", where="dbr config new", fix=f"dbr config new {arguments.file}")
    return _new(arguments.file)


def _new(path: Path | None) -> int:
    if path is None:
        print(commented_yaml(), end="")
        return 0
    _write_new(path, commented_yaml())
    print(f"Wrote {path}. Fill in the required lines, then: dbr train --config {path} --resume latest")
    return 0


def _import(source: Path | None, target: Path | None) -> int:
    if source is None:
        raise BadInput("needs a file", where="dbr config import", fix="dbr config import train.sh run.yaml")
    found = read_file(source)
    text = imported_yaml(found, source=source.name)
    if target is None:
        print(text, end="")
        print("\n".join(report(found)), file=sys.stderr)
        return 0
    _write_new(target, text)
    print("\n".join(report(found)))
    print(f"\nWrote {target}. Look at it, then: dbr train --config {target} --resume latest")
    return 0


def _write_new(path: Path, text: str) -> None:
    """Raises BadInput if the file is there already or can't be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BadInput(
            "is there already, and would be overwritten", where=str(path), fix="give another name, or remove it first"
        ) from None
    except OSError as error:
        raise BadInput(
            f"can't be written: {error.strerror}", where=str(path), fix="give a file in a folder that you may write to"
        ) from None
