"""The flags of `dbr train`, by argparse, from the schema.

argparse and not tyro, because we need to know which options were given (a resume takes the others from the run), three
forms of bools, help in our own groups, and every error in one form.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.config.unknown import unknown_option
from dreambooth_resume.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag: the option's name, the value as typed (True or False for a bare bool), and the flag as typed."""

    name: str
    value: object
    where: str


class _Collect(argparse.Action):
    """Appends (option, value, flag) in the order of the command line, so that the last of two wins."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002  argparse's signature
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        value: object = self.const if self.nargs == 0 or values is None else values
        namespace.found.append((self.dest, value, option_string))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dbr train", add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS
    )
    parser.add_argument("--config", action=_Collect)
    for option in OPTIONS.values():
        flags = [f"--{name}" for name in (option.name, *option.aliases)]
        if option.kind == "bool":
            parser.add_argument(*flags, dest=option.name, action=_Collect, nargs="?", const=True)
            parser.add_argument(f"--no_{option.name}", dest=option.name, action=_Collect, nargs=0, const=False)
        else:
            parser.add_argument(*flags, dest=option.name, action=_Collect)
    return parser


def read_flags(argv: Sequence[str]) -> tuple[Flag, ...]:
    """The flags in `argv`, in their order; `--config` is one of them. Values are not checked here.

    Raises BadInput for an unknown flag, a missing value, and a word that belongs to no flag.
    """
    typed: dict[str, str] = {}
    words = [_with_underscores(word, typed) for word in argv]
    namespace = argparse.Namespace(found=[])
    try:
        _, rest = _parser().parse_known_args(words, namespace)
    except argparse.ArgumentError as error:
        raise _misused(error, typed) from None
    if rest:
        raise _left_over(rest, typed)
    return tuple(Flag(name=name, value=_null(name, value), where=typed[flag]) for name, value, flag in namespace.found)


def _with_underscores(word: str, typed: dict[str, str]) -> str:
    """`--max-train-steps=40` as `--max_train_steps=40`; what was typed is kept for messages, without the value."""
    if not word.startswith("--") or word == "--":
        return word
    flag, equals, value = word.partition("=")
    plain = "--" + flag[2:].replace("-", "_")
    typed[plain] = flag
    return plain + equals + value


def _null(name: str, value: object) -> object:
    """`--checkpoints_total_limit none` takes a limit away; a command line has no other word for null."""
    if name in OPTIONS and OPTIONS[name].nullable and isinstance(value, str) and value.lower() in ("none", "null"):
        return None
    return value


def _misused(error: argparse.ArgumentError, typed: dict[str, str]) -> BadInput:
    name = (error.argument_name or "").partition("/")[0].lstrip("-")
    flags = [f"--{name}", *(f"--{alias}" for alias in (OPTIONS[name].aliases if name in OPTIONS else ()))]
    where = next((typed[flag] for flag in flags if flag in typed), flags[0])
    if "explicit argument" in str(error):
        return BadInput("takes no value", where=where, fix=f"type {where} alone")
    if name == "config":
        return BadInput(
            "needs a file", where=where, fix="type --config run.yaml; make one with: dbr config new run.yaml"
        )
    return BadInput(
        "needs a value", where=where, fix=f"type {where} VALUE, or {where}=VALUE for a value that begins with a dash"
    )


def _left_over(rest: list[str], typed: dict[str, str]) -> BadInput:
    # A flag first: the words behind an unknown flag are its values, and may be secret.
    flag = next((word.partition("=")[0] for word in rest if word.startswith("--") and word != "--"), None)
    if flag is not None:
        return unknown_option(flag[2:], where=typed[flag])
    word = rest[0]
    if word.endswith((".yaml", ".yml")):
        return BadInput("a file of options follows --config", where=word, fix=f"type --config {word}")
    if word.startswith("-") and len(word) > 1:
        return BadInput("options begin with two dashes", where=word[:2], fix="see: dbr train --help")
    return BadInput(
        f'the word "{word[:40]}" belongs to no option', fix="put a value with blanks in quotes; see: dbr train --help"
    )
