"""Digests of values and of the data set, the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from dreambooth_resume.data.dataset import Picture


def canonical_json(value: object) -> bytes:
    """`value` as JSON with sorted keys, no spaces and ASCII only: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_of(value: object) -> str:
    """SHA-256 of `value`'s canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def dataset_fingerprint(pictures: Iterable[Picture]) -> str:
    """What a run trains on: names, contents and prompts, in the order of the plan, with masks and repeats if any.

    Where the files lie doesn't count. That a picture has no mask, or comes once, isn't in it, as it never was.
    """
    return digest_of([_facts(picture) for picture in pictures])


def _facts(picture: Picture) -> list[object]:
    facts: list[object] = [picture.name, picture.sha256, picture.prompt]
    if picture.mask_sha256 is not None:
        facts.append(picture.mask_sha256)
    if picture.times > 1:
        facts.append(picture.times)
    return facts
