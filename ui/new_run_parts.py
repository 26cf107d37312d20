"""The parts of the page New run as HTML."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from dreambooth_resume.config.messages import plain
from dreambooth_resume.config.option import Option
from dreambooth_resume.config.template import EXAMPLES
from dreambooth_resume.ui.commands import Command
from dreambooth_resume.ui.draft import Review
from dreambooth_resume.ui.markup import command_list, empty, facts, problem, run_link, table, text
from dreambooth_resume.workflows.data_check import DataCheck

_PICTURES_SHOWN = 60


def findings(found: DataCheck, small: dict[str, str]) -> str:
    """What `dbr data check` found, with a small picture each; `small` is where the browser gets them, by name."""
    notes = [
        ("can't be read", [f"{name}: {reason}" for name, reason in found.unreadable]),
        ("smaller than what they are cut to", found.enlarged),
        ("animated: the first frame is taken", found.animated),
        ("the same picture twice", [" = ".join(group) for group in found.copies]),
        ("nearly alike", [" ~ ".join(group) for group in found.alike]),
        ("a caption file with nothing in it", found.blank_captions),
        (f"no trigger word {found.trigger_word or ''}", found.without_trigger),
    ]
    lines = [
        f"<li><b>{len(names)}</b> {text(what)}: {text(', '.join(names[:8]))}</li>" for what, names in notes if names
    ]
    said = (
        f"<div class='notice'><ul>{''.join(lines)}</ul></div>" if lines else '<p class="say">Nothing odd was found.</p>'
    )
    numbers = [
        ("Pictures", str(len(found.pictures))),
        ("Cut to", text(found.shapes)),
        ("With a caption", str(len(found.pictures) - len(found.without_caption))),
        ("Samples in a pass", f"{found.samples_in_a_pass:,}"),
    ]
    figures = "".join(
        f'<figure><img loading="lazy" src="{text(small[one.name])}" alt=""><figcaption>{text(one.name)} · {one.width}×'
        f"{one.height}{' · ' + text(', '.join(one.notes)) if one.notes else ''}</figcaption></figure>"
        for one in found.pictures[:_PICTURES_SHOWN]
        if one.name in small
    )
    return f'<div class="dbr">{facts(numbers)}{said}<div class="pics">{figures}</div></div>'


def reviewed(made: Review, commands: Sequence[Command], *, estimate: str = "") -> str:
    """The whole answer to Check or Start: errors, or what would be done, what it takes, and what was done."""
    done = command_list(commands, at_most=1)
    if commands and commands[0].state == "done":
        done += f'<p class="say">Started: {run_link(made.home, "open the run")}.</p>'
    if made.errors:
        said = "".join(
            problem(f"{one.name + ': ' if one.name else ''}{one.what}", f"Fix: {one.fix}" if one.fix else "")
            for one in made.errors
        )
        return f'<div class="dbr">{said}{done}</div>'
    if not made.words:
        words = "Check looks at everything that a start looks at, and starts nothing."
        return f'<div class="dbr">{done or empty("Nothing is checked yet", words, None)}</div>'
    rows = [(f"<code>{text(name)}</code>", text(before), f"<b>{text(now)}</b>") for name, before, now in made.differs]
    differs = table(("Option", "Default or preset", "This run"), rows) if rows else ""
    return (
        f'<div class="dbr"><h3>Everything was looked at; this would be started</h3><div class="log"><pre>'
        f"{text(shlex.join(['dbr', *made.words]))}</pre></div>{differs}{estimate}"
        f"<details><summary>Exactly what the launcher would do</summary><pre>{text(made.plan)}</pre></details>"
        f"{done}</div>"
    )


def left_out(where: str, names: Sequence[str], remark: str) -> str:
    """Which options of a launcher aren't asked for, and what speaks against using it from here."""
    told = [remark] if remark else []
    if names:
        flags = ", ".join(f"--{name}" for name in names)
        told.append(f"{flags} could hand secrets on, so only a terminal may name it: dbr launch {where} --help")
    return f'<div class="dbr"><p class="say">{text("; ".join(told))}</p></div>' if told else ""


def help_of(option: Option, bounds: str) -> str:
    """The first sentence of an option's help, with its bounds."""
    return f"{option.first_sentence}{f' ({bounds})' if bounds else ''}"


def default_of(option: Option) -> str:
    """The default as it is shown in an empty field."""
    if option.required:
        return str(EXAMPLES.get(option.name, ""))
    return "" if option.default is None else plain(option.default)


def is_within(path: str, folders: Sequence[str]) -> bool:
    """Does a path lie in one of the folders, with links followed? What isn't there counts by its name."""
    real = Path(path).expanduser().resolve()
    return any(real.is_relative_to(Path(folder).expanduser().resolve()) for folder in folders)
