"""What a check found: how bad it is, about what, where, and what to type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dreambooth_resume.errors import BadInput, DbrError

Severity = Literal["fatal", "warning", "fine"]
"""`fatal`: the run would not begin, or not come to its end. `warning`: it would, and you may not like it."""

SEVERITIES: tuple[Severity, ...] = ("fatal", "warning", "fine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing. `about` is a word for the check, `where` a flag, file or address, `fix` what to type; may be empty."""

    severity: Severity
    about: str
    what: str
    where: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that was found, the worst first, and how long it took."""

    findings: tuple[Finding, ...]
    seconds: float

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == severity)

    @property
    def is_fatal(self) -> bool:
        return bool(self.of("fatal"))


def sorted_findings(findings: list[Finding]) -> tuple[Finding, ...]:
    """The worst first, else in their order; what is said twice is said once."""
    seen: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        seen.setdefault((finding.severity, finding.what), finding)
    return tuple(sorted(seen.values(), key=lambda finding: SEVERITIES.index(finding.severity)))


def of_error(about: str, error: DbrError, *, severity: Severity = "fatal") -> Finding:
    """What an error says, which `dbr train` would end with."""
    if isinstance(error, BadInput):
        return Finding(severity=severity, about=about, what=error.what, where=error.where or "", fix=error.fix or "")
    # Of other errors the first sentence says what happened, and the rest what to do; of one sentence, its last part.
    what, _, rest = str(error).partition(". ")
    if not rest:
        what, _, rest = what.partition("; ")
    return Finding(severity=severity, about=about, what=what.removesuffix("."), fix=rest.strip())
