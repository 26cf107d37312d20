"""The argument parser of the small commands: argparse, with errors in our form."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

from dreambooth_resume.errors import BadInput


class CommandParser(argparse.ArgumentParser):
    """Raises BadInput where argparse would print its usage and exit.

    `fix` is the example that an error shows. Long flags are never cut short, and `--a_b` is `--a-b`.
    """

    def __init__(self, prog: str, *, description: str, fix: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self._fix = fix

    def error(self, message: str) -> NoReturn:
        raise BadInput(message, where=self.prog, fix=self._fix)

    def parse_words(self, words: list[str]) -> argparse.Namespace:
        """The words as a namespace. Raises BadInput, and SystemExit(0) after `--help`."""
        return self.parse_args([_with_dashes(word) for word in words])


def _with_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return "--" + flag[2:].replace("_", "-") + equals + value


def whole(text: str) -> int:
    """For `type`: a whole number from 1 on."""
    return _number(text, least=1)


def whole_or_zero(text: str) -> int:
    """For `type`: a whole number from 0 on."""
    return _number(text, least=0)


def guidance(text: str) -> float:
    """For `type`: a guidance scale."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError(f"{text[:20]} is not a number from 0 to 100")
    return number


def _number(text: str, *, least: int) -> int:
    if not text.isdigit() or not least <= int(text) < 2**63:
        raise argparse.ArgumentTypeError(f"{text[:20]} is not a whole number from {least} on")
    return int(text)
