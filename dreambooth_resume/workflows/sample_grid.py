"""How a LoRA grew: a run's own pictures, a row for each step, a column for each prompt and seed. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.samples import SampleSet
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.picture_grid import draw_grid

_SAME = ("negative_prompt", "height", "width", "guidance_scale", "seed", "number")
"""What pictures in one column share, beside the prompt. Not the denoising steps: the result's pictures have fewer."""


def sample_grid(storage: Storage, sets: Sequence[SampleSet], *, title: str) -> bytes:
    """A PNG of all `sets`. Raises ValueError if there are none."""
    columns: dict[str, str] = {}
    rows = [(_label(made), _places(made, columns)) for made in sets]
    pictures = [[_read(storage, places.get(column)) for column in columns] for _, places in rows]
    return draw_grid(
        pictures, row_labels=[label for label, _ in rows], column_labels=list(columns.values()), title=title
    )


def _places(made: SampleSet, columns: dict[str, str]) -> dict[str, str]:
    """Column to the picture's key; columns that are new here get their label."""
    places: dict[str, str] = {}
    for number, (key, prompt) in enumerate(zip(made.pictures, made.prompts, strict=True)):
        facts = made.facts[number] if len(made.facts) == len(made.pictures) else {"number": number}
        column = json.dumps([prompt, *(facts.get(name) for name in _SAME)])
        columns.setdefault(column, f"{prompt} (seed {facts.get('seed', made.seed)}, {facts.get('number', number)})")
        places[column] = key
    return places


def _label(made: SampleSet) -> str:
    return f"step {made.step}" + (" (result)" if made.is_final else " (asked)" if made.asked else "")


def _read(storage: Storage, key: str | None) -> bytes | None:
    if key is None:
        return None
    try:
        return storage.read(key)
    except KeyNotFound:
        return None  # deleted by hand: an empty place
