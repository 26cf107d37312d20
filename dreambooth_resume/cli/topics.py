"""The sections of docs/troubleshooting.md, which lies beside this module wherever dbr is installed."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.resources import files

_HEADING = re.compile(r"^#{2,3} (.*)$", re.M)


def section(name: str) -> str | None:
    """The section that `name` means, by its heading or the anchor of that, as text; None if there is none."""
    wanted = anchor_of(name)
    return next((text for heading, text in _sections() if anchor_of(heading) == wanted), None)


def near(name: str) -> str | None:
    """The anchor that is spelled most alike."""
    anchors = [anchor_of(heading) for heading, _ in _sections()]
    return next(iter(get_close_matches(anchor_of(name), anchors, n=1)), None)


def anchor_of(heading: str) -> str:
    """What GitHub calls a heading in an address, without dashes at its ends."""
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-").strip("-")


def _sections() -> list[tuple[str, str]]:
    """Heading and whole text of each; a section with subsections ends where the first of these begins."""
    page = (files("dreambooth_resume.cli") / "troubleshooting.md").read_text(encoding="utf-8")
    found = list(_HEADING.finditer(page))
    ends = [*(one.start() for one in found[1:]), len(page)]
    return [(one[1], page[one.start() : end].strip()) for one, end in zip(found, ends, strict=True)]
