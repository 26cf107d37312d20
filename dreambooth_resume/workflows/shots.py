"""The prompts of a run's pictures: from the file on this machine, and in the home for every other machine.

Kill anywhere: the home's copy is a hint. Without it and without the file a resume leaves those pictures out and says
so; no picture is worth a run that does not start.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.shots import Shot, read_shots, shot_facts, shot_of
from dreambooth_resume.errors import BadInput, KeyNotFound
from dreambooth_resume.runs.home import SAMPLE_PROMPTS
from dreambooth_resume.storage.base import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundShots:
    """What the file or the home holds; `remark` is what the user should know of it."""

    shots: tuple[Shot, ...] = ()
    remark: str | None = None


def find_shots(storage: Storage, options: TrainOptions, *, is_new: bool) -> FoundShots:
    """The prompts of validation_prompts_file. Raises BadInput for a file that is wrong, or missing for a new run."""
    named = options.validation.validation_prompts_file
    if named is None:
        return FoundShots()
    path = Path(named).expanduser()
    if path.is_file() or is_new:
        return FoundShots(shots=read_shots(path))
    try:
        stored = json.loads(storage.read(SAMPLE_PROMPTS))
        return FoundShots(shots=tuple(shot_of(entry, where=SAMPLE_PROMPTS) for entry in stored["prompts"]))
    except (KeyNotFound, ValueError, KeyError, TypeError, BadInput):
        remark = (
            f"The pictures of validation_prompts_file {named} are left out: the file is not on this machine, and the "
            "home has no copy."
        )
        return FoundShots(remark=remark)


def store_shots(storage: Storage, shots: Sequence[Shot]) -> None:
    """Keep the prompts in the home, unless they are there. Raises what the storage raises."""
    if not shots:
        return
    body = json.dumps({"prompts": [shot_facts(shot) for shot in shots]}, indent=1, ensure_ascii=False).encode()
    try:
        if storage.read(SAMPLE_PROMPTS) == body:
            return
    except KeyNotFound:
        pass
    storage.write(SAMPLE_PROMPTS, [body], durable=False)
