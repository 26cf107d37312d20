"""Options: how this machine is told that it goes away."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel

from dreambooth_resume.config.options.declaration import NOT_BLANK, SECTION_CONFIG, TILDE_EXPANDED, free

_DURATION = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?", re.ASCII)
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def duration_seconds(text: str) -> float:
    """25m, 1h30m, 90s or 90 in seconds. Raises ValueError for anything else, and for nothing."""
    found = _DURATION.fullmatch(text.strip())
    seconds = (
        sum(float(number) * _UNIT_SECONDS[unit] for unit, number in found.groupdict("0").items()) if found else 0.0
    )
    if seconds <= 0.0:
        raise ValueError("is no time: write 25m, 1h30m or 90s")
    return seconds


def _is_a_duration(value: str | None) -> str | None:
    if value is not None:
        duration_seconds(value)
    return value


class PreemptionOptions(BaseModel):
    """How this machine is told that it goes away; signals are always heeded."""

    # None of it is part of the run: every machine is told in its own way.
    model_config = SECTION_CONFIG

    spot: Annotated[Literal["auto", "aws", "gcp", "azure", "none"], free(recorded=False)] = "auto"
    """Whose notices of an interruption are read from this machine's metadata service. auto finds out at the start, in
    half a second in the background; none asks nobody."""

    notice_file: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free(recorded=False)] = None
    """A file whose appearance is a notice, and whose removal withdraws it. It may hold YAML: `seconds: 25` or
    `end_time: 2026-11-21T08:05:00Z`."""

    deadline: Annotated[str | None, AfterValidator(_is_a_duration), free(recorded=False)] = None
    """Time from the start of this attempt after which the platform just ends it, such as 25m or 1h30m: the run saves
    and leaves before. For platforms with a time limit and no notice, such as HF Jobs."""

    @property
    def deadline_seconds(self) -> float | None:
        return duration_seconds(self.deadline) if self.deadline is not None else None
