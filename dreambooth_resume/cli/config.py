"""`dbr config new`: a commented YAML file, whole or for a GPU; `dbr config import FILE`: one from another trainer's."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.config.importing.read import read_file
from dreambooth_resume.config.importing.written import imported_yaml, report
from dreambooth_resume.config.template import commented_yaml
from dreambooth_resume.errors import BadInput

_PRESETS = ("8gb", "12gb", "16gb", "24gb", "80gb")
_DESCRIPTION = """\
new: prints a commented YAML file with all options of `dbr train`, or writes it to FILE. With
--preset 12gb a short one for a GPU with so much memory, and what it was computed from.
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
    parser.add_argument("--preset", choices=_PRESETS, metavar="|".join(_PRESETS), help="new: the GPU's memory")
    arguments = parser.parse_words(_flag_last(words))
    if arguments.action == "import":
        if arguments.preset is not None:
            raise BadInput("is for dbr config new", where="--preset", fix="leave it out")
        return _import(arguments.file, arguments.to)
    if arguments.to is not None:
        raise BadInput("one file is written", where="dbr config new", fix=f"dbr config new {arguments.file}")
    return _new(arguments.file, arguments.preset)


def _flag_last(words: list[str]) -> list[str]:
    """argparse takes an optional FILE for missing once a flag stands before it."""
    place = next((number for number, word in enumerate(words) if word == "--preset"), len(words))
    return [*words[:place], *words[place + 2 :], *words[place : place + 2]]


def _new(path: Path | None, preset: str | None) -> int:
    text = commented_yaml() if preset is None else _preset(preset)
    if path is None:
        print(text, end="")
        return 0
    _write_new(path, text)
    print(f"Wrote {path}. Fill in the required lines, then: dbr train --config {path} --resume latest")
    return 0


def _preset(name: str) -> str:
    return (files("dreambooth_resume.configs") / f"sdxl_{name}.yaml").read_text(encoding="utf-8")


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
