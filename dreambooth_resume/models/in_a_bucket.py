"""A base model in a bucket: a copy of what is read of it on this machine, made once for each version of its files.

The copy of a file lies in a folder named after the versions (sizes and entity tags) of all files of the model, so
another upload under the same name is another copy, and no run sees half of each. Whether it is the model that a run was
begun with is not judged here: its files are pinned by their digests, as those of any base.

Kill anywhere: a file is written under a name of its own, made durable and then renamed, and believed only once its
SHA-256, noted beside the folder after that, is that of the bytes on the disk. A copy that is cut off or was changed is
fetched again; what a killed process left of it is removed then, which its lock, held by the living, tells. No copy is
ever deleted: the folder may be, whenever no training reads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dreambooth_resume.errors import BadInput, KeyNotFound, StorageUnavailable
from dreambooth_resume.models.digests import default_cache_file, file_digest, remember_digest
from dreambooth_resume.storage.base import Storage, StoredObject
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.storage.urls import open_storage

SCHEME = "s3://"
_FOLDER = "models-from-buckets"
_ENDINGS = (".json", ".safetensors", ".txt")
"""Of files that a Diffusers model is read from: others in the folder don't make another version."""
_WHOLE_MODEL = ".safetensors"
_DEEPEST = 1
_TRIES = 3

_logger = logging.getLogger(__name__)


def is_in_a_bucket(name: str) -> bool:
    return name.startswith(SCHEME)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """The model's files as the bucket lists them, and where this machine has or will have copies."""

    storage: Storage
    files: dict[str, StoredObject]
    folder: Path


class ModelsInBuckets:
    """`s3` says how buckets are reached; `cache_dir` None: the copies lie in the user's cache folder."""

    def __init__(
        self,
        s3: S3Settings | None = None,
        *,
        cache_dir: str | None = None,
        open_bucket: Callable[[str, S3Settings | None], Storage] = open_storage,
    ) -> None:
        self._s3 = s3
        self._open = open_bucket
        self._folder = (Path(cache_dir).expanduser() if cache_dir else default_cache_file().parent) / _FOLDER

    def names(self, address: str, *, flag: str) -> tuple[str, ...]:
        """The files of the folder at `address` that may be a model's. Raises BadInput if there are none.

        Raises AccessDenied, and StorageUnavailable if the store does not answer.
        """
        listed = self._list(address, flag=flag)
        return tuple(sorted(listed.files))

    def fetched(self, address: str, names: Sequence[str], *, flag: str) -> Path:
        """A folder of this machine that has these files, as the bucket has them now. Errors as of `names`.

        Raises BadInput also if the folder can't be written.
        """
        for _ in range(_TRIES):
            listed = self._list(address, flag=flag)
            missing = [name for name in names if name in listed.files and not _is_sound(listed, name)]
            if not missing:
                return listed.folder
            _check_room(listed, missing, flag=flag)
            size_bytes = sum(listed.files[name].size_bytes for name in missing)
            _logger.info("Fetching %d files of %s (%.1f MB).", len(missing), address, size_bytes / 1e6)
            for name in missing:
                if not _fetch(listed, name):
                    break
            # Listed once more at the next turn: what was replaced meanwhile has another folder.
        raise StorageUnavailable(f"{address}: the model changes while it is read. Start again when it is uploaded.")

    def fetched_file(self, address: str, *, flag: str) -> Path:
        """The file at `address` on this machine. Errors as of `names`."""
        name = address.rpartition("/")[2]
        return self.fetched(address, [name], flag=flag) / name

    def _list(self, address: str, *, flag: str) -> _Listed:
        address = address.rstrip("/")
        is_file = address.endswith(_WHOLE_MODEL)
        at, _, name = address.rpartition("/") if is_file else (address, "", "")
        storage = self._open(at, self._s3)
        files = {one.key: one for one in storage.list(name) if (one.key == name if is_file else _may_be_read(one.key))}
        if not files:
            raise BadInput(
                "no such object is there" if is_file else "no file of a model lies there",
                where=f"{flag} {address}",
                fix="give an uploaded folder of pipe.save_pretrained(), or one .safetensors file; how a service other "
                "than AWS is reached is --s3_endpoint_url",
            )
        versions = [[one.key, one.size_bytes, one.version] for one in sorted(files.values(), key=lambda one: one.key)]
        endpoint = self._s3.endpoint_url if self._s3 else None
        folder = self._folder / _short([endpoint, address]) / _short(versions)
        return _Listed(storage=storage, files=files, folder=folder)


def _may_be_read(key: str) -> bool:
    return key.endswith(_ENDINGS) and key.count("/") <= _DEEPEST


def _short(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


def _note(listed: _Listed, name: str) -> Path:
    """Where the SHA-256 of a complete copy is written."""
    return listed.folder.with_suffix(".sha256") / name


def _is_sound(listed: _Listed, name: str) -> bool:
    path = listed.folder / name
    try:
        noted = _note(listed, name).read_text(encoding="ascii")
        if path.stat().st_size != listed.files[name].size_bytes:
            return False
    except (OSError, ValueError):
        return False
    return file_digest(path, cache_file=default_cache_file()) == noted


def _check_room(listed: _Listed, names: Sequence[str], *, flag: str) -> None:
    with _writing(listed.folder):
        listed.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(listed.folder).free
    needed = sum(listed.files[name].size_bytes for name in names)
    if needed > free:
        raise BadInput(
            f"a copy needs {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free in {listed.folder.parent.parent}",
            where=f"{flag} {listed.storage.describe()}",
            fix="make room, or name another folder: --cache_dir",
        )


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """This machine's disk is the user's to mend. Its OSError would pass for the connection's, and be tried again."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"no copy of a model can be written there ({error.strerror or error})",
            where=str(folder),
            fix="make room, or the folder writable; or name another folder: --cache_dir",
        ) from error


class _FileSink:
    """A body that arrives, written to a file from its beginning, and hashed."""

    def __init__(self, path: Path) -> None:
        self.sha256 = hashlib.sha256()
        self._folder = path.parent
        with _writing(self._folder):
            # Without a buffer: one of a sink that was given up would be written over its successor's file.
            self._file = path.open("wb", buffering=0)

    def update(self, piece: bytes, /) -> None:
        self.sha256.update(piece)
        left = memoryview(piece)
        with _writing(self._folder):
            while left:
                left = left[self._file.write(left) :]

    def make_durable(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()


class _Temporary:
    """A name of its own in the target's folder, locked, and nothing under it afterwards.

    Of several processes that fetch one file, each writes its own. Those that killed ones left are removed first.
    """

    def __init__(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        self.path = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        # Who takes it for a leftover before this line, or where locks don't reach other machines, makes `_put` fail:
        # nothing wrong is believed then, and it is fetched again.
        _lock(self._descriptor)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)


def _lock(descriptor: int) -> bool:
    """Whether nobody else holds it; False also where the file system has no locks, so that nothing is removed there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_leftovers(target: Path) -> None:
    form = re.compile(rf"\.{re.escape(target.name)}-[0-9a-f]{{32}}")
    for path in target.parent.iterdir():
        if form.fullmatch(path.name) is None:
            continue
        # Gone meanwhile, or another user's: it is theirs to remove.
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if _lock(descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


def _fetch(listed: _Listed, name: str) -> bool:
    """Copy the file, and note what was copied; False if that has to begin anew with a list."""
    target = listed.folder / name
    with _writing(target.parent), _Temporary(target) as temporary:
        try:
            sink = listed.storage.download(name, lambda: _FileSink(temporary))
        except KeyNotFound:
            return False
        sink.make_durable()
        if not _is_still_there(listed, name):
            # What came may be another version's. Noted, it would be believed as soon as this one is uploaded again.
            return False
        if not _put(temporary, target):
            return False
        _make_durable(target.parent)
    digest = sink.sha256.hexdigest()
    remember_digest(target, digest, cache_file=default_cache_file())
    note = _note(listed, name)
    with _writing(note.parent), _Temporary(note) as temporary:
        temporary.write_text(digest, encoding="ascii")
        return _put(temporary, note)


def _put(temporary: Path, target: Path) -> bool:
    """False if somebody took `temporary` for a leftover, or removed its folder."""
    try:
        temporary.replace(target)
    except FileNotFoundError:
        return False
    return True


def _is_still_there(listed: _Listed, name: str) -> bool:
    """Whether the bucket has that version of the file that was listed."""
    wanted = listed.files[name]
    return any(one == wanted and one.version == wanted.version for one in listed.storage.list(name))


def _make_durable(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
