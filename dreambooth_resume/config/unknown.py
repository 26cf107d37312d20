"""What to say about an option name that is not in the schema."""

from __future__ import annotations

from difflib import get_close_matches

from dreambooth_resume.config.not_yet import NOT_YET
from dreambooth_resume.config.options.train import SECTIONS
from dreambooth_resume.config.other_trainers import NO_COUNTERPART, OTHER_TRAINERS
from dreambooth_resume.config.schema import ALIASES, OPTIONS
from dreambooth_resume.errors import BadInput

_SIMILAR_ENOUGH = 0.7  # of difflib's ratio; at 0.6 "lr_steps" is offered for "save_steps"


def spelled(name: str, *, where: str) -> str:
    """The name as one would type it at `where`: a flag there, or a key."""
    return f"--{name}" if where.startswith("--") else name


def unknown_option(name: str, *, where: str) -> BadInput:
    """The error for a name (underscores) that is not in the schema. It never holds the value that came with it."""
    if name in NO_COUNTERPART:
        return BadInput(f"no such option here: {NO_COUNTERPART[name]}", where=where, fix="leave it out")
    target = OTHER_TRAINERS.get(name, name)
    if target in NOT_YET:
        called = "" if target == name else f" (as {target})"
        return BadInput(f"not available yet{called}: {NOT_YET[target]}", where=where, fix="leave it out")
    if target in OPTIONS:
        return BadInput(
            f"is called {spelled(target, where=where)} here",
            where=where,
            fix=f"type {spelled(target, where=where)} ({OPTIONS[target].first_sentence.rstrip('.')})",
        )
    near = nearest_name(name)
    if near is None:
        return BadInput("unknown option", where=where, fix="search the options with: dbr options WORD")
    if near in NOT_YET:
        return BadInput(f"unknown option, and {near} is not available yet", where=where, fix="leave it out")
    described = OPTIONS[ALIASES.get(near, near)].first_sentence.rstrip(".")
    return BadInput("unknown option", where=where, fix=f"did you mean {spelled(near, where=where)}? ({described})")


def nearest_name(name: str) -> str | None:
    """The known name that is spelled most alike, or the only one that holds `name` as a part, or None."""
    known = [*OPTIONS, *ALIASES, *NOT_YET]
    near = get_close_matches(name, known, n=1, cutoff=_SIMILAR_ENOUGH)
    if near:
        return near[0]
    theirs = get_close_matches(name, OTHER_TRAINERS, n=1, cutoff=0.8)
    if theirs:
        return OTHER_TRAINERS[theirs[0]]
    holding = [option for option in OPTIONS if len(name) > 3 and name in option]
    return holding[0] if len(holding) == 1 else None


def nearest_section(name: str) -> str | None:
    near = get_close_matches(name, SECTIONS, n=1, cutoff=0.5)
    return near[0] if near else None
