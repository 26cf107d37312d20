"""Commands that take the options of `dbr train` beside a few of their own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dreambooth_resume.cli.arguments import CommandParser

# Shown in the command's help, and an option of the training.
_OF_TRAINING = ("config",)


def own_and_train(parser: CommandParser, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that `parser` knows, and the others, each in their order. `--config` goes to the others.

    What both know is the training's, but for the options by which a bucket is reached: those go to both.
    """
    flags = {flag: action for action in parser._actions for flag in action.option_strings}
    own, train = list[str](), list[str]()
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        flag, equals, _ = word.partition("=")
        action = flags.get(flag if not flag.startswith("--") else "--" + flag[2:].replace("_", "-"))
        if action is None or action.dest in _OF_TRAINING:
            train.append(word)
            continue
        taken = [word]
        if not equals and not isinstance(action, argparse._StoreTrueAction | argparse._HelpAction) and waiting:
            taken.append(waiting.pop(0))
        own += taken
    return own, train
