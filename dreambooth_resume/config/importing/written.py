"""An import as our commented YAML, and as the report of what could not be taken over as it is."""

from __future__ import annotations

from dreambooth_resume.config.importing.findings import About, Findings
from dreambooth_resume.config.template import commented_yaml, yaml_scalar

_HEAD = """\
# Options of `dbr train`, imported from {source}. Use it with: dbr train --config THIS_FILE --resume latest
# A flag wins over its line here. A line that begins with # shows the default; remove the # to set it.
"""


def imported_yaml(found: Findings, *, source: str) -> str:
    """The commented file with the imported values set, and the report on top of it."""
    head = _HEAD.format(source=source) + "".join(f"# {line}".rstrip() + "\n" for line in report(found))
    return commented_yaml(found.values, head=head, origins=found.origins)


def report(found: Findings) -> list[str]:
    """Line by line: what was taken over, and under a heading each what was not, or not as it was."""
    lines = ["", f"Taken over: {len(found.values)}"]
    lines += [
        f"  {name}: {yaml_scalar(value)}" + _from(name, found.origins[name]) for name, value in found.values.items()
    ]
    for about in About:
        remarks = [remark for remark in found.remarks if remark.about is about]
        if remarks:
            lines += ["", f"{about}: {len(remarks)}"]
            lines += [f"  {remark.theirs}: {remark.text}" for remark in remarks]
    return lines


def _from(name: str, origin: str) -> str:
    return "" if origin.lstrip("-").replace("-", "_") == name else f"   (from {origin})"
