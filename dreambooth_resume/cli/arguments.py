"""The argument parser of the small commands: argparse, with errors in our form."""

from __future__ import annotations

import argparse
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
