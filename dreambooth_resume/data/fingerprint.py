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
    """What a run trains on: names, contents and prompts, in the plan's order, and the masks of those that have one.

    Where the files lie doesn't count.
    """
    facts = ([picture.name, picture.sha256, picture.prompt, picture.mask_sha256] for picture in pictures)
    return digest_of([one if one[-1] is not None else one[:-1] for one in facts])
