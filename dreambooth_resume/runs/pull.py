"""A committed checkpoint as files of this machine, every byte compared with its log entry while it comes.

Kill anywhere: a file gets its name in the unfinished folder once it is whole and durable, and the folder its own name
once all files are there. The next pull takes what is there already and goes on with the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from dreambooth_resume.errors import BadInput, CheckpointDamaged, KeyNotFound, RefusedToGoOn
from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import CheckpointRef, StoredFile
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.storage.base import Storage

OnBytes = Callable[[int, int], None]
"""Told how many bytes are there, of how many."""

# Damage on the way does not come twice; damage that lies in the home does.
_TRIES = 2


def newest_checkpoint(log: Log, *, where: str) -> CheckpointRef:
    """The one that a resume begins from. Raises BadInput if there is none yet."""
    usable = log.usable_line()
    if not usable:
        raise BadInput("this run has no checkpoint yet", where=where, fix=f"dbr status {where} shows how far it is")
    return ref_of(log, usable[-1])


def pull_checkpoint(
    storage: Storage, ref: CheckpointRef, folder: Path, *, on_bytes: OnBytes = lambda _done, _total: None
) -> Path:
    """`folder`/checkpoint-500 with the files of `ref`; what is there already and right is not fetched again.

    Raises CheckpointDamaged, RefusedToGoOn if it is retired meanwhile, BadInput if the folder can't be written or holds
    something else under that name.
    """
    target, unfinished = folder / ref.folder, folder / f".{ref.folder}.unfinished"
    if target.exists():
        _check_what_is_there(target, ref)
        return target
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        _Puller(storage, ref, unfinished, on_bytes).fetch_all()
        _keep_only(unfinished, ref)
        _fsync_folder(unfinished)
        os.rename(unfinished, target)
        _fsync_folder(folder)
    except KeyNotFound as error:
        raise _gone(storage, ref) from error
    except OSError as error:
        if target.exists():
            # Another pull into the same folder was quicker.
            _check_what_is_there(target, ref)
            return target
        raise _not_writable(folder, error) from error
    return target


class _Puller:
    def __init__(self, storage: Storage, ref: CheckpointRef, folder: Path, on_bytes: OnBytes) -> None:
        self._storage = storage
        self._ref = ref
        self._folder = folder
        self._on_bytes = on_bytes
        self._total_bytes = sum(file.size_bytes for file in ref.files)
        self._done_bytes = 0

    def fetch_all(self) -> None:
        for file in self._ref.files:
            path = self._folder / _name(file)
            if not _is_whole(path, file):
                self._fetch(file, path)
            self._done_bytes += file.size_bytes
            self._on_bytes(self._done_bytes, self._total_bytes)

    def _fetch(self, file: StoredFile, path: Path) -> None:
        for _ in range(_TRIES):
            # A name of its own: two pulls may fill one folder.
            temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            try:
                arrived = self._download(file, temporary)
                if (arrived.size_bytes, arrived.sha256.hexdigest()) == (file.size_bytes, file.sha256):
                    os.replace(temporary, path)
                    return
            finally:
                temporary.unlink(missing_ok=True)
        if arrived.size_bytes != file.size_bytes:
            raise self._damaged(f"{_name(file)} has {arrived.size_bytes} of {file.size_bytes} bytes")
        raise self._damaged(f"{_name(file)} is not what was written (SHA-256 differs)")

    def _download(self, file: StoredFile, temporary: Path) -> _Arriving:
        arriving: list[_Arriving] = []

        def begin() -> _Arriving:
            for earlier in arriving:
                earlier.close()
            arriving.append(_Arriving(temporary, self._on_piece))
            return arriving[-1]

        try:
            return self._storage.download(file.key, begin).flushed()
        finally:
            for one in arriving:
                one.close()

    def _on_piece(self, arrived_bytes: int) -> None:
        self._on_bytes(self._done_bytes + arrived_bytes, self._total_bytes)

    def _damaged(self, what: str) -> CheckpointDamaged:
        home = self._storage.describe()
        return CheckpointDamaged(f"{self._ref.folder} in {home}: {what}. dbr checkpoints list {home} shows the others.")


class _Arriving:
    """A file that is being written and hashed as its body arrives."""

    def __init__(self, path: Path, on_piece: Callable[[int], None]) -> None:
        with _our_trouble(path):
            self._file = path.open("wb")
        self._path = path
        self._on_piece = on_piece
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def update(self, piece: bytes, /) -> None:
        self.sha256.update(piece)
        with _our_trouble(self._path):
            self._file.write(piece)
        self.size_bytes += len(piece)
        self._on_piece(self.size_bytes)

    def flushed(self) -> _Arriving:
        with _our_trouble(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be flushed was reported already
            self._file.close()


@contextlib.contextmanager
def _our_trouble(path: Path) -> Iterator[None]:
    """A full disk here must not be taken for trouble of the storage, which would be asked again."""
    try:
        yield
    except OSError as error:
        raise _not_writable(path.parent, error) from error


def _not_writable(folder: Path, error: OSError) -> BadInput:
    return BadInput(
        f"can't be written: {error.strerror or error}", where=str(folder), fix="name another DIR, or make room"
    )


def _name(file: StoredFile) -> str:
    return file.key.rpartition("/")[2]


def _is_whole(path: Path, file: StoredFile) -> bool:
    try:
        with path.open("rb") as stored:
            return hashlib.file_digest(stored, "sha256").hexdigest() == file.sha256
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return False


def _check_what_is_there(target: Path, ref: CheckpointRef) -> None:
    if not all(_is_whole(target / _name(file), file) for file in ref.files):
        raise BadInput(
            "is there already and is not that checkpoint", where=str(target), fix="name another DIR, or move it away"
        )


def _keep_only(unfinished: Path, ref: CheckpointRef) -> None:
    """What killed pulls left under names of their own."""
    wanted = {_name(file) for file in ref.files}
    for found in unfinished.iterdir():
        if found.name not in wanted:
            found.unlink(missing_ok=True)


def _gone(storage: Storage, ref: CheckpointRef) -> RefusedToGoOn:
    home = storage.describe()
    if ref.number in read_log(storage).retired:
        return RefusedToGoOn(f"{ref.folder} of {home} was retired while it was pulled. Type the same command again.")
    return CheckpointDamaged(f"{ref.folder} in {home}: a file is missing. dbr checkpoints verify {home} tells which.")


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
