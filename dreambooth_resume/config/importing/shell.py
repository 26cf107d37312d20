"""The command line of a training program in a shell script, a notebook's cell or a line by itself. Nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dreambooth_resume.config.importing.findings import Setting
from dreambooth_resume.errors import BadInput

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_ENDS_A_COMMAND = ("&&", "||", ";", "|", "&")
_REDIRECTION = re.compile(r"\d*[<>]|&>")
_PROGRAM = re.compile(r"(?:sdxl_)?train_?\w*\.py|\w+_train_\w*\.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """A training program with its settings. `program` is None for a line of options alone."""

    program: str | None
    launcher: tuple[Setting, ...]
    """What stands before the program: options of `accelerate launch`."""
    settings: tuple[Setting, ...]


def command_line(text: str, *, where: str) -> CommandLine:
    """The first training command in `text`, with the variables that the text itself sets put in.

    Variables from elsewhere stay as they are written. Raises BadInput if there is no such command.
    """
    variables: dict[str, str] = {}
    options_alone: list[str] | None = None
    for words in _commands(text):
        rest = _without_assignments(words, variables)
        program = next((n for n, word in enumerate(rest) if _PROGRAM.fullmatch(PurePosixPath(word).name)), None)
        if program is not None:
            filled = [_filled_in(word, variables) for word in rest]
            return CommandLine(
                program=PurePosixPath(rest[program]).name,
                launcher=_settings(filled[:program]),
                settings=_settings(filled[program + 1 :]),
            )
        if options_alone is None and rest and all(word.startswith("-") for word in rest[:1]):
            options_alone = [_filled_in(word, variables) for word in rest]
    if options_alone is not None:
        return CommandLine(program=None, launcher=(), settings=_settings(options_alone))
    raise BadInput(
        "holds no command line of a training script",
        where=where,
        fix="give a file with a line such as: accelerate launch train_dreambooth_lora_sdxl.py --rank 16 …",
    )


def _commands(text: str) -> Iterator[list[str]]:
    """The words of every command, continued lines joined, comments and redirections dropped."""
    pending = ""
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        pending = f"{pending}\n{line}" if pending else line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:
            continue  # a quotation that goes on on the next line
        pending = ""
        command: list[str] = []
        for word in words:
            bare, is_last = word.rstrip(";"), word.endswith(";") and not word.startswith("-")
            if word in _ENDS_A_COMMAND or _REDIRECTION.match(word):
                # What follows a redirection is its file, or another one.
                yield command
                command = []
                continue
            command.append(bare if is_last else word)
            if is_last:
                yield command
                command = []
        yield command


def _without_assignments(words: Sequence[str], variables: dict[str, str]) -> list[str]:
    """The command behind `export A=1` or `A=1 command …`; what is assigned goes to `variables`."""
    rest = list(words)
    if rest and rest[0] in ("export", "%env", "set"):
        rest = rest[1:]
    while rest and (match := _ASSIGNMENT.fullmatch(rest[0])) is not None:
        variables[match[1]] = _filled_in(match[2], variables)
        rest = rest[1:]
    if rest:
        rest[0] = rest[0].lstrip("!")  # a notebook's way to run a program
    return [word for word in rest if word]


def _filled_in(word: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], match[0]), word)


def _settings(words: Sequence[str]) -> tuple[Setting, ...]:
    """`--name value`, `--name=value`, `--name one two` (a list) and `--name` (true), in their order."""
    found: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--") and len(word) > 2:
            flag, equals, value = word.partition("=")
            found.append((flag, [value] if equals else []))
        elif found:
            found[-1][1].append(word)
    return tuple(
        Setting(
            name=flag.lstrip("-").replace("-", "_"),
            value=True if not values else values[0] if len(values) == 1 else list(values),
            theirs=flag,
        )
        for flag, values in found
    )
