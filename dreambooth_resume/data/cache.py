"""What the frozen encoders make of a picture or a prompt, kept in the home under the address of what went in.

An entry's address is the digest of its recipe: everything that decides its content (encoder, picture, crop, …). So a
new machine encodes nothing again, and a changed option simply asks for other addresses. Each entry is encoded in a call
of its own, because batched encoding gives other bits, and then what was already there would change what is made now.

Kill anywhere: an entry is put at once or not at all, so a kill costs at most the one being encoded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dreambooth_resume.data.fingerprint import canonical_json, digest_of
from dreambooth_resume.data.transforms import FloatArray
from dreambooth_resume.errors import ComeBack, KeyNotFound, RefusedToGoOn
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.side_by_side import side_by_side

CACHE_PREFIX = "cache/"
MEMORY_LIMIT_BYTES = 4 * 2**30

Arrays = Mapping[str, FloatArray]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing to encode: `recipe` is JSON and decides the content, `encode` makes float32 arrays, `label` names it.

    `encode` is called only if the home has no sound entry, so it may load the model when it is first called.
    """

    label: str
    recipe: Mapping[str, object]
    encode: Callable[[], Arrays]

    @property
    def key(self) -> str:
        return f"{CACHE_PREFIX}{digest_of(self.recipe)}.safetensors"


class Cache:
    """Encoded entries of one home, the latest used of them in memory."""

    def __init__(self, storage: Storage, *, memory_limit_bytes: int = MEMORY_LIMIT_BYTES) -> None:
        self._storage = storage
        self._memory_limit_bytes = memory_limit_bytes
        self._memory: OrderedDict[str, Arrays] = OrderedDict()
        self._memory_bytes = 0
        self._lock = threading.Lock()

    def fill(
        self,
        entries: Sequence[Entry],
        *,
        should_stop: Callable[[], bool],
        on_progress: Callable[[int, int], None],
    ) -> bool:
        """Make sure that the home holds a sound copy of every entry, and keep in memory what fits.

        Calls `on_progress(done, total)` after each, and looks at `should_stop` before each: True makes it return False
        at once, with what was done kept. Returns True when all are there.
        Raises RefusedToGoOn if an encoder gives NaN or infinity, or the home doesn't give back what was written.
        """
        done, encoded, total = 0, 0, len(entries)
        on_progress(done, total)

        def settled() -> Iterator[_Settled]:
            """Each entry as the home has it or as it was made, one after the other: two encodings never overlap."""
            with contextlib.closing(side_by_side(self._storage, self._stored, entries)) as found:
                for entry, stored in zip(entries, found, strict=True):
                    if should_stop():
                        return
                    yield (entry, stored, None) if stored is not None else (entry, None, _encode(entry))

        # What was read comes ahead of the encoder, what it made is put behind it, and all of it in the entries' order.
        with contextlib.closing(side_by_side(self._storage, self._keep, settled())) as kept:
            for entry, arrays, was_encoded in kept:
                self._remember(entry.key, arrays)
                done, encoded = done + 1, encoded + was_encoded
                on_progress(done, total)
        if encoded:
            _logger.info("Encoded %d of %d; what was encoded before is in the cache.", encoded, total)
        return done == total

    def arrays(self, entry: Entry) -> Arrays:
        """The arrays of an entry that `fill` has seen. Safe to call from several threads; read-only.

        Never encodes: in the middle of training there is no encoder any more. Raises ComeBack if the entry has been
        damaged or removed since; the next start encodes it again.
        """
        with self._lock:
            arrays = self._memory.get(entry.key)
            if arrays is not None:
                self._memory.move_to_end(entry.key)
                return arrays
        arrays = self._stored(entry)
        if arrays is None:
            raise ComeBack(f"{entry.label}: {entry.key} was damaged or removed while the run was using it. Resume.")
        self._remember(entry.key, arrays)
        return arrays

    def _keep(self, settled: _Settled) -> tuple[Entry, Arrays, bool]:
        """Store what was made; the arrays are those that the home holds now, so each start has the same bits."""
        entry, stored, made = settled
        if stored is not None:
            return entry, stored, False
        assert made is not None
        self._storage.put_if_absent(entry.key, _pack(entry, made))
        arrays = self._stored(entry)
        if arrays is None:
            raise RefusedToGoOn(
                f"{self._storage.describe()} does not give back what was written to {entry.key}. Check the disk."
            )
        return entry, arrays, True

    def _stored(self, entry: Entry) -> Arrays | None:
        """What the home holds, if it is sound. A damaged entry is deleted, since its key is never written over."""
        try:
            return _unpack(entry, self._storage.read(entry.key))
        except KeyNotFound:
            return None
        except _DamagedEntryError as damage:
            _logger.warning("%s: %s is damaged (%s) and is made again.", entry.label, entry.key, damage)
            self._storage.delete(entry.key)
            return None

    def _remember(self, key: str, arrays: Arrays) -> None:
        """Keep `arrays` in memory; beyond the limit the longest unused go, and are read from the home when needed."""
        with self._lock:
            if key in self._memory:
                return
            self._memory[key] = arrays
            self._memory_bytes += _size_bytes(arrays)
            while self._memory_bytes > self._memory_limit_bytes and len(self._memory) > 1:
                _, dropped = self._memory.popitem(last=False)
                self._memory_bytes -= _size_bytes(dropped)


_Settled = tuple[Entry, Arrays | None, Arrays | None]
"""An entry with what the home has of it, or else with what was encoded."""


class _DamagedEntryError(Exception):
    """A stored entry that isn't what was put."""


def _encode(entry: Entry) -> Arrays:
    made = entry.encode()
    for name, array in made.items():
        if not np.isfinite(array).all():
            raise RefusedToGoOn(
                f"{entry.label}: the encoder gives NaN or infinity ({name}). Try another VAE or picture."
            )
    return made


def _pack(entry: Entry, arrays: Arrays) -> bytes:
    # One metadata field only: safetensors writes several in an order that changes from process to process.
    about = canonical_json({"recipe": dict(entry.recipe), "sha256": _content_digest(arrays)}).decode()
    return save({name: np.ascontiguousarray(array, dtype=np.float32) for name, array in arrays.items()}, {"dbr": about})


def _unpack(entry: Entry, body: bytes) -> Arrays:
    """The arrays in `body`, read-only. Raises _DamagedEntryError unless they are what was encoded from this recipe."""
    try:
        arrays = load(body)
        header_size = struct.unpack_from("<Q", body)[0]
        about = json.loads(json.loads(body[8 : 8 + header_size])["__metadata__"]["dbr"])
        stored_recipe, stored_digest = about["recipe"], about["sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError, struct.error) as error:
        raise _DamagedEntryError(f"can't be parsed: {error}") from error
    if canonical_json(stored_recipe) != canonical_json(dict(entry.recipe)):
        raise _DamagedEntryError("holds another entry")
    if _content_digest(arrays) != stored_digest:
        raise _DamagedEntryError("its digest is wrong")
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def _content_digest(arrays: Arrays) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], dtype=np.float32)
        digest.update(canonical_json([name, list(array.shape)]))
        digest.update(array.tobytes())
    return digest.hexdigest()


def _size_bytes(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())
