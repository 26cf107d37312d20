"""What `dbr doctor` is asked, and what it found as HTML. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from dreambooth_resume.insight.findings import SEVERITIES, Diagnosis, Finding, Severity
from dreambooth_resume.ui.errand_parts import under_way, without_result
from dreambooth_resume.ui.errands import Errand
from dreambooth_resume.ui.markup import empty, text

_NAMES: dict[Severity, str] = {"fatal": "Would stop it", "warning": "To look at", "fine": "Fine"}
_FINDINGS = TypeAdapter(tuple[Finding, ...])

NOTHING_YET = empty(
    "Nothing is examined yet",
    "It looks at options, pictures, the base model and the right to fetch it, every permission in the home, disk, GPU, "
    "memory, clock, notices and tokens, in under 20 seconds, and leaves nothing behind.",
    "dbr doctor --config run.yaml",
)


def doctor_words(words: Sequence[str], *, deep: bool) -> list[str]:
    """Of `dbr`, for options of `dbr train`."""
    return ["doctor", *words, *(["--deep"] if deep else []), "--json"]


def home_words(home: str, s3_words: Sequence[str]) -> list[str]:
    """The options of `dbr train` that name a run which has begun."""
    return [f"--storage_uri={home}", *s3_words] if "://" in home else [f"--output_dir={home}"]


def examined(errand: Errand) -> str:
    """How far it is; what was found; or why nothing was."""
    if not errand.is_over:
        return _part(under_way(errand, what="Examining"))
    found = None if errand.state == "ended" else diagnosis(errand.output)
    if found is None:
        return _part(without_result(errand))
    groups = "".join(_group(severity, found.of(severity)) for severity in SEVERITIES)
    return _part(
        f"{_summary(found)}{groups}<details><summary>As typed</summary><pre>{text(errand.typed)}</pre></details>"
    )


def diagnosis(output: str) -> Diagnosis | None:
    """From the command's JSON; None if it is none, as of a process that failed."""
    try:
        read = json.loads(output)
        return Diagnosis(findings=_FINDINGS.validate_python(read["findings"]), seconds=float(read["seconds"]))
    except (ValueError, KeyError, TypeError, ValidationError):
        return None


def _summary(found: Diagnosis) -> str:
    counts = ", ".join(f"{len(found.of(one))} {_NAMES[one].lower()}" for one in SEVERITIES if found.of(one))
    verdict = "This run would not begin, or not come to its end" if found.is_fatal else "Nothing stands in its way"
    kind = "chip-failed" if found.is_fatal else "chip-finished"
    return (
        f'<div class="top" role="status"><span class="chip {kind}"><i></i>{verdict}</span>'
        f'<span class="dim">{text(counts)}; {found.seconds:.1f} s</span></div>'
    )


def _group(severity: Severity, findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    return f'<h3>{_NAMES[severity]}</h3><ul class="findings">{"".join(map(_finding, findings))}</ul>'


def _finding(finding: Finding) -> str:
    where = f'<div class="path" title="{text(finding.where)}">{text(finding.where)}</div>' if finding.where else ""
    fix = f'<div class="fix"><b>Fix:</b> {text(finding.fix)}</div>' if finding.fix else ""
    return (
        f'<li class="finding-{finding.severity}"><b>{text(finding.about)}</b>'
        f"<div>{text(finding.what)}{where}{fix}</div></li>"
    )


def _part(body: str) -> str:
    return f'<div class="dbr">{body}</div>'
