"""Does this place keep what a home needs? Asked once at every start, before anything is believed or promised."""

from __future__ import annotations

import uuid

from dreambooth_resume.errors import BadInput
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.side_by_side import both

PROBE_PREFIX = "control/probe-"


def probe(storage: Storage, *, allow_unfenced: bool) -> str:
    """Create, refuse, read, list and delete one small key; returns a line that says how writers are kept apart.

    Raises AccessDenied or StorageUnavailable as the storage does, and BadInput where a second put-if-absent succeeds:
    two machines could then spoil one run (unless the user accepts that with `--unfenced`).
    """
    key, body = f"{PROBE_PREFIX}{uuid.uuid4().hex}.json", uuid.uuid4().hex.encode()
    try:
        first = storage.put_if_absent(key, body)
        second = storage.put_if_absent(key, b"a second writer")
        stored, found = both(storage, lambda: storage.read(key), lambda: storage.list(PROBE_PREFIX))
    finally:
        storage.delete(key)
    fenced = first and not second and stored == body and storage.refuses_a_second_writer
    if all(one.key != key for one in found):
        raise BadInput(
            "a key that was just written is not listed",
            where=storage.describe(),
            fix="use storage with consistent listings, or a local folder",
        )
    if fenced:
        return "a second writer is refused by the storage (put-if-absent works)"
    if allow_unfenced:
        return "UNFENCED: this storage lets two writers in; never start this run twice at once"
    raise BadInput(
        "this storage has no put-if-absent, so two machines could spoil one run",
        where=storage.describe(),
        fix="use another storage, or --unfenced if you make sure yourself that only one machine runs at a time",
    )
