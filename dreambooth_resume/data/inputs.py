"""A copy of the pictures in the run's home, so that an empty machine needs nothing but the home.

Kill anywhere: pictures lie under their own digest, so a copy is either missing or done, and a second start adds what is
missing. The list goes last: until it exists, the next start copies from the folder again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dreambooth_resume.data.dataset import Picture, PictureSet
from dreambooth_resume.errors import BadInput, KeyNotFound, RefusedToGoOn
from dreambooth_resume.runs.entries import sealed, unsealed
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.reread import read_sound
from dreambooth_resume.storage.side_by_side import side_by_side

INPUTS_PREFIX = "inputs/"
INPUTS_LIST = "inputs.json"
CLASS_INPUTS_LIST = "class_inputs.json"
"""The class pictures that were found in a folder; those that are made have a list of their own (`class_images`)."""
VALIDATION_INPUTS_LIST = "validation_inputs.json"
"""The held-out pictures, on which a validation loss is measured."""
SEGMENT_LIST = re.compile(r"inputs-[0-9a-f]{64}\.json")
"""The lists of data sets that took the first one's place."""
# Where this machine keeps what it fetched, below the stage.
FETCHED_FOLDER = "fetched-inputs"
_FORMAT = 1
_OPTIONS_OF_LISTS = {CLASS_INPUTS_LIST: "class_data_dir", VALIDATION_INPUTS_LIST: "validation_data_dir"}

_logger = logging.getLogger(__name__)


class StoredPicture(BaseModel):
    """One line of the list. Names that a later release adds are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    sha256: str
    size_bytes: int
    width: int
    height: int
    caption: str | None = None
    """The picture's own prompt; None, which isn't written: that of the run."""
    mask_sha256: str | None = None
    """The picture's mask, a file beside the others; the picture's own digest if it is its transparency; None: none."""
    mask_size_bytes: int | None = None
    times: int | None = None
    """How often it comes in a pass; None, which isn't written: once."""

    @property
    def digests(self) -> tuple[str, ...]:
        """Of all files that the picture needs."""
        return (self.sha256,) if self.mask_sha256 in (None, self.sha256) else (self.sha256, str(self.mask_sha256))

    def file(self, sha256: str) -> StoredPicture:
        """One of these files as a line of its own."""
        if sha256 == self.sha256:
            return self
        size_bytes = self.mask_size_bytes or 0
        return self.model_copy(update={"name": f"mask of {self.name}", "sha256": sha256, "size_bytes": size_bytes})


class StoredInputs(BaseModel):
    """The list of a home's pictures, in the plan's order."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int
    pictures: tuple[StoredPicture, ...]


def input_key(sha256: str) -> str:
    return f"{INPUTS_PREFIX}{sha256}"


def segment_list(fingerprint: str) -> str:
    """The key of the list of the data set with this fingerprint, where it isn't the run's first."""
    return f"inputs-{fingerprint}.json"


def store_inputs(
    storage: Storage,
    pictures: PictureSet,
    *,
    list_key: str = INPUTS_LIST,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Copy what the home lacks of `pictures`, then write the list. Does nothing if the home holds this set already.

    A copy that was damaged is replaced: here, unlike later, the folder is at hand. Looks at `should_stop` before each
    picture: True makes it return False at once, else it returns True. Raises BadInput if the home holds another set of
    pictures, or if a picture changes while it is copied.
    """
    wanted = _listing(pictures)
    if _is_listed(storage, list_key, wanted):
        return True
    distinct = {file.sha256: file for picture in pictures.pictures for file in _files(picture)}
    there = {found.key for found in storage.list(INPUTS_PREFIX)}
    until_asked_to_stop = itertools.takewhile(lambda _: not should_stop(), distinct.values())
    stored = side_by_side(storage, partial(_store_one, storage, there), until_asked_to_stop)
    if sum(1 for _ in stored) < len(distinct):
        return False
    if not storage.put_if_absent(list_key, sealed(wanted.model_dump(mode="json", exclude_none=True))):
        _is_listed(storage, list_key, wanted)
    _logger.info(
        "Copied %d pictures (%.1f MB) to %s: the run no longer needs the folder.",
        len(pictures.pictures), pictures.size_bytes / 1e6, storage.describe(),
    )  # fmt: skip
    return True


def load_inputs(storage: Storage, stage: Path, *, prompt: str, list_key: str = INPUTS_LIST) -> PictureSet | None:
    """The pictures of the home, as files on this machine; None if the home has no (complete) copy.

    They lie in the home's own folder if `stage` is that folder, else they are fetched, once, to `stage`/fetched-inputs.
    Each digest is checked at each start. Raises RefusedToGoOn naming a picture whose copy is missing or damaged.
    """
    listed = read_list(storage, list_key)
    if listed is None:
        return None
    listed_files = (stored.file(sha256) for stored in reversed(listed.pictures) for sha256 in stored.digests)
    distinct = {file.sha256: file for file in listed_files}
    found = side_by_side(storage, partial(local_file, storage, stage), distinct.values())
    files = dict(zip(distinct, found, strict=True))
    return PictureSet(
        pictures=tuple(
            Picture(
                path=files[stored.sha256],
                mask_path=files[stored.mask_sha256] if stored.mask_sha256 else None,
                prompt=stored.caption or prompt,
                **stored.model_dump() | {"times": stored.times or 1},
            )
            for stored in listed.pictures
        )
    )


def read_list(storage: Storage, list_key: str) -> StoredInputs | None:
    """The list of that name, None if there is none. Raises RefusedToGoOn if it is damaged or of a later format."""
    try:
        listed = read_sound(storage, list_key, partial(_parse, storage, list_key), damaged=RefusedToGoOn)
    except KeyNotFound:
        return None
    if listed.format > _FORMAT:
        raise RefusedToGoOn(f"{list_key} in {storage.describe()} was written by a newer dbr: update this one.")
    return listed


def _parse(storage: Storage, list_key: str, body: bytes) -> StoredInputs:
    try:
        facts = json.loads(body)
        # Lists that were written before there were seals have these two names and no other.
        is_unsealed = isinstance(facts, dict) and facts.keys() == StoredInputs.model_fields.keys()
        return StoredInputs.model_validate(facts if is_unsealed else unsealed(body))
    except ValueError as error:
        raise RefusedToGoOn(
            f"{list_key} in {storage.describe()} is damaged. Delete it and start with the folder at hand, "
            "and it is written again from there."
        ) from error


def _listing(pictures: PictureSet) -> StoredInputs:
    return StoredInputs(format=_FORMAT, pictures=tuple(map(_line, pictures.pictures)))


def _line(picture: Picture) -> StoredPicture:
    line = StoredPicture.model_validate(picture, from_attributes=True)
    return line if picture.times > 1 else line.model_copy(update={"times": None})


def _is_listed(storage: Storage, list_key: str, wanted: StoredInputs) -> bool:
    """Whether the home's list is `wanted`. Raises BadInput if it is another, RefusedToGoOn if it is damaged."""
    stored = read_list(storage, list_key)
    if stored is None:
        return False
    if stored != wanted:
        raise BadInput(
            f"The run in {storage.describe()} was begun with other pictures than the folder holds now.",
            where=_OPTIONS_OF_LISTS.get(list_key, "instance_data_dir"),
            fix="Put the folder back as it was, or start a new run: --output_dir NEW_FOLDER",
        )
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    name: str
    path: Path
    sha256: str


def _files(picture: Picture) -> tuple[_File, ...]:
    """The picture's, and its mask's where that is another one."""
    own = _File(name=picture.name, path=picture.path, sha256=picture.sha256)
    if picture.mask_path is None or picture.mask_sha256 in (None, picture.sha256):
        return (own,)
    return own, _File(name=f"mask of {picture.name}", path=picture.mask_path, sha256=str(picture.mask_sha256))


def _store_one(storage: Storage, there: Collection[str], file: _File) -> None:
    """Copy `file`, unless its copy is `there` and sound, as it is after a start that was killed."""
    key = input_key(file.sha256)
    if key in there and _has_copy(storage, file.name, file.sha256):
        return
    try:
        body = file.path.read_bytes()
    except OSError as error:
        raise _changed(file.path) from error
    if hashlib.sha256(body).hexdigest() != file.sha256:
        raise _changed(file.path)
    # Refused, though it wasn't listed: listings lag behind, and another start may be copying the same.
    if not storage.put_if_absent(key, body) and not _has_copy(storage, file.name, file.sha256):
        storage.put_if_absent(key, body)


def keep_body(storage: Storage, stage: Path, stored: StoredPicture, body: bytes) -> None:
    """Put the body of `stored` into the home, unless it is there, and where this machine looks for it."""
    if not _has_copy(storage, stored.name, stored.sha256):
        storage.put_if_absent(input_key(stored.sha256), body)
    if not any(path.is_file() and _sha256_of(path) == stored.sha256 for path in _local_places(stage, stored)):
        _write_fetched(_local_places(stage, stored)[1], body)


def _has_copy(storage: Storage, name: str, sha256: str) -> bool:
    """Whether the home holds a sound copy. A damaged one is deleted, since its key is never written over."""
    key = input_key(sha256)
    try:
        if storage.digest(key).sha256 == sha256:
            return True
    except KeyNotFound:
        return False
    _logger.warning("The copy of %s in %s was damaged; it is replaced.", name, storage.describe())
    storage.delete(key)
    return False


def _changed(path: Path) -> BadInput:
    return BadInput(
        "The picture changed while the run was being set up.",
        where=str(path),
        fix="Start again once nothing writes to the folder any more.",
    )


def local_file(storage: Storage, stage: Path, stored: StoredPicture) -> Path:
    """A file of this machine whose content has the digest that the list names.

    Raises RefusedToGoOn if the home's copy is missing or damaged.
    """
    key = input_key(stored.sha256)
    places = _local_places(stage, stored)
    for path in places:
        if path.is_file() and _sha256_of(path) == stored.sha256:
            return path

    def checked(body: bytes) -> bytes:
        if hashlib.sha256(body).hexdigest() != stored.sha256:
            raise _unusable(storage, stored, "damaged")
        return body

    try:
        body = read_sound(storage, key, checked, damaged=RefusedToGoOn)
    except KeyNotFound as error:
        raise _unusable(storage, stored, "missing") from error
    return _write_fetched(places[1], body)


def _local_places(stage: Path, stored: StoredPicture) -> tuple[Path, Path]:
    """Where this machine may have a picture: in the home, if that is the stage, and among what was fetched."""
    return stage / input_key(stored.sha256), stage / FETCHED_FOLDER / stored.sha256


def _write_fetched(fetched: Path, body: bytes) -> Path:
    fetched.parent.mkdir(parents=True, exist_ok=True)
    # Two attempts may share a stage; a name of its own and a rename let neither see half a file.
    temporary = fetched.with_name(f".{fetched.name}-{uuid.uuid4().hex}")
    temporary.write_bytes(body)
    temporary.replace(fetched)
    return fetched


def _unusable(storage: Storage, stored: StoredPicture, state: str) -> RefusedToGoOn:
    return RefusedToGoOn(
        f"{stored.name}: the run's own copy of this picture is {state}. "
        f"Copy the original to {input_key(stored.sha256)} in {storage.describe()} and resume."
    )


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
