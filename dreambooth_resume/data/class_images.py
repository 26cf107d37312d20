"""Class pictures that the base model makes: each with a seed of its own, each kept in the home once it is made.

A picture lies under its content's digest, as the user's own do, and under the digest of its recipe lies a note that
names it: the first note counts for ever. When all are there they are listed, and from then on that list is the set.

Kill anywhere: a picture goes first, its note next, so a kill costs at most the batch that was being made. A batch is
always the same pictures, whatever was there already, because a picture made among others has other last bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import JsonValue, ValidationError

from dreambooth_resume.data.cache import CACHE_PREFIX
from dreambooth_resume.data.dataset import Picture
from dreambooth_resume.data.fingerprint import canonical_json, digest_of
from dreambooth_resume.data.inputs import StoredInputs, StoredPicture, keep_body, local_file, read_list
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.data.transforms import FloatArray
from dreambooth_resume.errors import ComeBack, KeyNotFound, RefusedToGoOn
from dreambooth_resume.runs.entries import sealed, unsealed
from dreambooth_resume.storage.base import Storage

MADE_LIST = "class_images.json"
"""The pictures that were made, in their order; there once all are."""
NOTE_SUFFIX = ".json"
_FORMAT = 1
_LATENTS_DRAW = 1
_READERS = 8
_DAMAGED = (ValidationError, ValueError, KeyError)
"""What a note raises that isn't what was put."""

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Paint = Callable[[range], Sequence[Pixels] | None]
"""Numbers of pictures that are made at once -> these pictures [height, width, 3]; None if told to stop."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPictures:
    """The class pictures of a run: the first of `count` were found in a folder, the others are made."""

    prompt: str
    count: int
    found: tuple[Picture, ...]
    stage: Path
    """Where this machine keeps what it fetched."""
    folder_changed: bool = False
    """The folder holds other pictures than when the run began, which goes on with its own copies."""

    @property
    def to_make(self) -> int:
        return self.count - len(self.found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How the missing ones are made. `recipe` is JSON, and with a picture's number decides everything about it."""

    recipe: Mapping[str, JsonValue]
    count: int
    batch_size: int

    def note_key(self, number: int) -> str:
        return f"{CACHE_PREFIX}{digest_of({**self.recipe, 'number': number})}{NOTE_SUFFIX}"


def starting_noise(seed: int, number: int, shape: tuple[int, int, int]) -> FloatArray:
    """What class picture `number` of a run is made from: standard normal latents (channels, height, width)."""
    return generator(seed, Stream.SAMPLE, slot=number, draw=_LATENTS_DRAW).standard_normal(shape, dtype=np.float32)


def complete(
    storage: Storage,
    stage: Path,
    making: Making,
    paint: Paint,
    *,
    should_stop: Callable[[], bool],
    on_progress: Callable[[int, int], None],
) -> tuple[StoredPicture, ...] | None:
    """Every picture of `making`, in the order of their numbers; those that the home has no sound copy of are made.

    Calls `on_progress(done, total)`, and looks at `should_stop` before each batch: None if it, or `paint`, was told to
    stop, with all finished batches kept. Raises RefusedToGoOn if a picture that the run trains on is lost and can't be
    made again to the same bytes.
    """
    listed = read_list(storage, MADE_LIST)
    expected = listed.pictures if listed else None
    with ThreadPoolExecutor(_READERS, thread_name_prefix="class") as pool:
        known = list(pool.map(lambda number: _sound(storage, stage, making, number, expected), range(making.count)))
    on_progress(sum(one is not None for one in known), making.count)
    for batch in _batches(making):
        missing = [number for number in batch if known[number] is None]
        if not missing:
            continue
        made = None if should_stop() else paint(batch)
        if made is None:
            return None
        for number in missing:
            want = expected[number] if expected else None
            known[number] = _keep(storage, stage, making, number, made[number - batch.start], want)
        on_progress(sum(one is not None for one in known), making.count)
    pictures = tuple(one for one in known if one is not None)
    if expected is None:
        body = canonical_json(
            StoredInputs(format=_FORMAT, pictures=pictures).model_dump(mode="json", exclude_none=True)
        )
        storage.put_if_absent(MADE_LIST, body)
        if storage.read(MADE_LIST) != body:
            raise ComeBack(f"Another attempt listed other class pictures in {storage.describe()} just now. Resume.")
        _logger.info("All %d class pictures are made and in %s.", making.count, storage.describe())
    return pictures


def as_pictures(storage: Storage, stage: Path, stored: Sequence[StoredPicture], *, prompt: str) -> tuple[Picture, ...]:
    """Files of this machine for what `complete` returned."""
    return tuple(Picture(path=local_file(storage, stage, one), prompt=prompt, **one.model_dump()) for one in stored)


def noted_pictures(storage: Storage) -> Iterator[str]:
    """Digests of the made pictures that the home names, listed or not yet."""
    listed = read_list(storage, MADE_LIST)
    if listed is not None:
        yield from (picture.sha256 for picture in listed.pictures)
        return
    for found in storage.list(CACHE_PREFIX):
        if found.key.endswith(NOTE_SUFFIX):
            # A damaged note names nothing; the start that needs it makes its picture again.
            with contextlib.suppress(KeyNotFound, *_DAMAGED):
                yield _noted(storage.read(found.key)).sha256


def _batches(making: Making) -> Iterator[range]:
    for start in range(0, making.count, making.batch_size):
        yield range(start, min(start + making.batch_size, making.count))


def _sound(
    storage: Storage, stage: Path, making: Making, number: int, expected: Sequence[StoredPicture] | None
) -> StoredPicture | None:
    """The picture of that number if the home names it and this machine can read it."""
    stored = expected[number] if expected else _read_note(storage, making.note_key(number))
    if stored is None:
        return None
    try:
        local_file(storage, stage, stored)
    except RefusedToGoOn as damage:
        _logger.warning("%s It is made again.", damage)
        if expected is None:
            storage.delete(making.note_key(number))  # nothing is trained yet, so another picture may take its place
        return None
    return stored


def _read_note(storage: Storage, key: str) -> StoredPicture | None:
    """What a note names. A damaged one is deleted, since its key is never written over."""
    try:
        return _noted(storage.read(key))
    except KeyNotFound:
        return None
    except _DAMAGED as error:
        _logger.warning("%s in %s is damaged (%s); its picture is made again.", key, storage.describe(), error)
        storage.delete(key)
        return None


def _noted(body: bytes) -> StoredPicture:
    return StoredPicture.model_validate(unsealed(body)["picture"])


def _keep(
    storage: Storage, stage: Path, making: Making, number: int, pixels: Pixels, want: StoredPicture | None
) -> StoredPicture:
    """Store a made picture, then its note. Another attempt's note that came first wins: `want` is such a one."""
    body = _png(pixels)
    made = StoredPicture(
        name=f"class-{number + 1:04d}.png",
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        width=pixels.shape[1],
        height=pixels.shape[0],
    )
    if want is None:
        keep_body(storage, stage, made, body)
        facts: dict[str, JsonValue] = {
            "format": _FORMAT,
            "recipe": {**making.recipe, "number": number},
            "picture": made.model_dump(mode="json", exclude_none=True),
        }
        storage.put_if_absent(making.note_key(number), sealed(facts))
        want = _read_note(storage, making.note_key(number))
    if want is None:
        raise RefusedToGoOn(
            f"{storage.describe()} does not give back what was written to {making.note_key(number)}. Check the disk."
        )
    if want.sha256 == made.sha256:
        keep_body(storage, stage, want, body)
        return want
    # Made by another attempt in the meantime, or lost and made again on a machine with other last bits.
    try:
        local_file(storage, stage, want)
    except RefusedToGoOn as error:
        raise RefusedToGoOn(
            f"{error} It was made by the base model, and this machine makes another picture of it: resume on a machine "
            "like the first one, or begin a new run."
        ) from error
    return want


def _png(pixels: Pixels) -> bytes:
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, format="PNG")
    return body.getvalue()
