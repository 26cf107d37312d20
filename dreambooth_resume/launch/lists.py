"""Options of launchers that hold several values, separated by commas."""

from __future__ import annotations

import re

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def listed(text: str | None) -> tuple[str, ...]:
    """The parts of `a, b,c`, each once; none of nothing."""
    return tuple(dict.fromkeys(part for part in re.split(r"[,\s]+", text or "") if part))


def are_variables(value: str | None) -> str | None:
    """Raises ValueError for a part that is no variable's name, such as one with its value."""
    wrong = next((part for part in listed(value) if _VARIABLE.fullmatch(part) is None), None)
    if wrong is not None:
        # Not shown as a whole: behind the = may stand what is secret.
        raise ValueError(f"{wrong.partition('=')[0]} is no name alone; write names without values, as in HF_TOKEN")
    return value
