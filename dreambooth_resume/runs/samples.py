"""`samples/500-a3/`: pictures that an attempt made with the LoRA of a step. Hints for people: nothing depends on them.

The list goes last: without it the pictures beside it are a set that a kill cut short, which is made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import JsonValue, ValidationError

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.entries import Record
from dreambooth_resume.runs.home import SAMPLES_PREFIX, is_samples_list, sample_key, samples_list_key
from dreambooth_resume.storage.base import Storage


class SampleSet(Record):
    """Pictures of one prompt. `recipe` holds everything that decides them, the digest of the LoRA included."""

    step: int
    attempt: int
    made_at: str
    """ISO 8601, UTC. For people."""
    prompt: str
    seed: int
    is_final: bool
    pictures: tuple[str, ...]
    """Keys of the PNGs, in the order of their noise."""
    recipe: dict[str, JsonValue]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Of each picture."""
        return (self.prompt,) * len(self.pictures)


def write_samples(
    storage: Storage, pngs: tuple[bytes, ...], *, step: int, attempt: int, is_final: bool, recipe: Mapping[str, JsonValue]
) -> SampleSet:
    """Store one set. Raises what the storage raises; the set then isn't there."""
    made = SampleSet(
        step=step,
        attempt=attempt,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        prompt=str(recipe["prompt"]),
        seed=int(str(recipe["seed"])),
        is_final=is_final,
        pictures=tuple(sample_key(step, attempt, number) for number in range(len(pngs))),
        recipe=dict(recipe),
    )
    for key, png in zip(made.pictures, pngs, strict=True):
        storage.write(key, [png], durable=False)
    storage.write(samples_list_key(step, attempt), [made.model_dump_json(indent=1).encode()], durable=False)
    return made


def read_samples(storage: Storage, *, step: int | None = None) -> tuple[SampleSet, ...]:
    """Every complete set in the home, or those of one step, by step and attempt. What can't be read is passed over."""
    prefix = SAMPLES_PREFIX if step is None else f"{SAMPLES_PREFIX}{step}-"
    found = []
    for listed in storage.list(prefix):
        if is_samples_list(listed.key):
            try:
                found.append(SampleSet.model_validate_json(storage.read(listed.key)))
            except (KeyNotFound, ValidationError):
                continue
    return tuple(sorted(found, key=lambda one: (one.step, one.attempt)))
