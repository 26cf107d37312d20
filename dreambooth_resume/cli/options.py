"""`dbr options [WORD]`: searches names, help texts and other trainers' names."""

from __future__ import annotations

import re

from dreambooth_resume.cli.arguments import CommandParser
from dreambooth_resume.cli.help import option_help
from dreambooth_resume.config.not_yet import NOT_YET
from dreambooth_resume.config.other_trainers import NO_COUNTERPART, OTHER_TRAINERS
from dreambooth_resume.config.reference import markdown
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.config.unknown import nearest_name
from dreambooth_resume.errors import BadInput


def run(words: list[str]) -> int:
    parser = CommandParser(
        "dbr options",
        description="Shows the options of `dbr train` whose name, help, or name in another trainer holds WORD.",
        fix="dbr options WORD, for example: dbr options batch",
    )
    parser.add_argument("word", nargs="?", metavar="WORD")
    parser.add_argument("--markdown", action="store_true", help="print all of them as docs/options.md has them")
    arguments = parser.parse_words(words)
    if arguments.markdown:
        print(markdown(), end="")
    elif arguments.word is None:
        print("\n".join(f"  {name:<36} {option.first_sentence}" for name, option in OPTIONS.items()))
    else:
        print(found(arguments.word))
    return 0


def found(word: str) -> str:
    """What there is for a word, best matches first. Raises BadInput if there is nothing."""
    wanted = word.lstrip("-").lower().replace("-", "_").removeprefix("no_")
    # At the start of a word only: "lr" is not meant where "already" is written.
    in_text = re.compile(r"\b" + re.escape(wanted.replace("_", " ")), re.IGNORECASE)
    lines = _told_by_others(wanted)
    by_name = [option for option in OPTIONS.values() if any(wanted in name for name in (option.name, *option.aliases))]
    by_help = [option for option in OPTIONS.values() if option not in by_name and in_text.search(_spaced(option.help))]
    named = OTHER_TRAINERS.get(wanted)
    if named is not None and named in OPTIONS and OPTIONS[named] not in by_name:
        by_name.insert(0, OPTIONS[named])
    lines += [option_help(option) for option in (*by_name, *by_help)]
    lines += [
        f"  {name}\n      Not available yet: {what}."
        for name, what in NOT_YET.items()
        if wanted in name or in_text.search(_spaced(what)) or name == named
    ]
    if lines:
        return "\n".join(lines)
    near = nearest_name(wanted)
    raise BadInput(
        "no option has that word in its name or help",
        where=f"dbr options {word[:40]}",
        fix=f"dbr options {near}" if near else "list them all: dbr options",
    )


def _spaced(text: str) -> str:
    return text.replace("_", " ").replace("-", " ")


def _told_by_others(wanted: str) -> list[str]:
    if wanted in NO_COUNTERPART:
        return [f"  {wanted}: {NO_COUNTERPART[wanted]}."]
    if wanted in OTHER_TRAINERS:
        return [f"  {wanted} is what other trainers call {OTHER_TRAINERS[wanted]}."]
    return []
