"""`dbr train`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from dreambooth_resume.cli.help import full_help, section_help, short_help
from dreambooth_resume.config.load import parse_train, resolve


def run(words: list[str]) -> int:
    """Trains, or prints help. Returns the exit code; raises DbrError."""
    page = _help_page(words)
    if page is not None:
        print(page)
        return 0
    given = parse_train(words)
    home = str(given.value("output_dir"))
    if "://" not in home and not Path(home).exists():
        # Certainly a first start, so what is missing or contradictory can be said before torch is imported.
        resolve(given, recorded=None)
    from dreambooth_resume.cli.progress import log_shown_by, make_reporter
    from dreambooth_resume.workflows.train import train

    reporter = make_reporter(cast(float, given.value("progress_seconds")))
    with log_shown_by(reporter):
        return train(given, reporter)


def _help_page(words: list[str]) -> str | None:
    """The page that was asked for, or None. `--help data` shows one section."""
    for place, word in enumerate(words):
        if word in ("--help-all", "--help_all"):
            return full_help()
        if word in ("-h", "--help"):
            following = words[place + 1] if place + 1 < len(words) else ""
            asked_for_section = bool(following) and not following.startswith("-")
            return section_help(following) if asked_for_section else short_help()
        if word.startswith("--help="):
            return section_help(word.partition("=")[2])
    return None
