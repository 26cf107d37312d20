"""`samples/500-a3/`: pictures that an attempt made with the LoRA of a step. Hints for people: nothing depends on them.

The list goes last: without it the pictures beside it are a set that a kill cut short, which is made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import JsonValue, ValidationError

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.entries import Record
from dreambooth_resume.runs.home import SAMPLES_PREFIX, is_samples_list, sample_key, samples_list_key
from dreambooth_resume.storage.base import Storage

SampleKind = str
"""`validation`, `final`, or eight letters of the request that asked for the pictures."""


class SampleSet(Record):
    """Pictures that were made together. `recipe` holds everything that decides them, the digest of the LoRA included."""

    step: int
    attempt: int
    made_at: str
    """ISO 8601, UTC. For people."""
    prompt: str
    """Of the first picture."""
    seed: int
    is_final: bool
    pictures: tuple[str, ...]
    """Keys of the PNGs, in the order of their noise."""
    recipe: dict[str, JsonValue]
    facts: tuple[dict[str, JsonValue], ...] = ()
    """Of each picture: prompt, negative_prompt, height, width, num_inference_steps, guidance_scale, seed. Empty in sets
    of earlier releases."""
    asked: str | None = None
    """Eight letters of the request that it was made for; None: it was due."""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Of each picture."""
        if len(self.facts) != len(self.pictures):
            return (self.prompt,) * len(self.pictures)
        return tuple(str(one.get("prompt", self.prompt)) for one in self.facts)


def write_samples(
    storage: Storage,
    pngs: tuple[bytes, ...],
    *,
    step: int,
    attempt: int,
    recipe: Mapping[str, JsonValue],
    facts: Sequence[Mapping[str, JsonValue]] = (),
    kind: SampleKind = "validation",
) -> SampleSet:
    """Store one set; `kind` is `final`, or the letters of a request. Raises what the storage raises."""
    asked = None if kind in ("validation", "final") else kind
    made = SampleSet(
        step=step,
        attempt=attempt,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        prompt=str(recipe["prompt"]),
        seed=int(str(recipe["seed"])),
        is_final=kind == "final",
        pictures=tuple(sample_key(step, attempt, number, asked) for number in range(len(pngs))),
        recipe=dict(recipe),
        facts=tuple(dict(one) for one in facts),
        asked=asked,
    )
    for key, png in zip(made.pictures, pngs, strict=True):
        storage.write(key, [png], durable=False)
    storage.write(samples_list_key(step, attempt, asked), [made.model_dump_json(indent=1).encode()], durable=False)
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
    return tuple(sorted(found, key=lambda one: (one.step, one.attempt, one.asked or "")))
