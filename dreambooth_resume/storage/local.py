"""A folder as a home: local disk, network file system, or a mounted drive without hard links."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

from dreambooth_resume.errors import AccessDenied, BadInput, KeyNotFound, OutcomeUnknown, StorageUnavailable
from dreambooth_resume.storage.base import Body, SinkKind, StoredDigest, StoredObject
from dreambooth_resume.storage.compare import Compared
from dreambooth_resume.storage.probe import PROBE_PREFIX
from dreambooth_resume.storage.same_folder import SameFolder

TEMPORARY = ".tmp"
# Where hard links don't exist, put-if-absent creates the key as a folder that holds its body under this name.
BODY_IN_FOLDER = "body"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOBODYS_TEMPORARY_SECONDS = 24 * 3600.0
_TRIES_MAX = 20
_PIECE_BYTES = 2**20

Placed = TypeVar("Placed")


class LocalStorage:
    """Keys are files below `root`; a write is a temporary file, fsync, rename, fsync of the folder."""

    hint_interval_seconds = 1.0
    requests_at_once = 1
    refuses_a_second_writer = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self._owner = "x"
        self._folder = SameFolder(root)

    def describe(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        with self._reading(f"read {self.root / key}"), self._open(key) as stored:
            body = stored.read()
        self._folder.has_given(key)
        return body

    def download(self, key: str, new_sink: Callable[[], SinkKind]) -> SinkKind:
        sink = new_sink()
        with self._reading(f"read {self.root / key}"):
            stored = self._open(key)
        with stored:
            # Only what the disk says is translated: the sink has troubles of its own.
            while piece := self._next_piece(key, stored):
                sink.update(piece)
        return sink

    def _next_piece(self, key: str, stored: BufferedReader) -> bytes:
        with _translated(f"read {self.root / key}"):
            return stored.read(_PIECE_BYTES)

    def write(self, key: str, parts: Sequence[Body], *, durable: bool = True) -> None:
        target = self._path(key)
        self._folder.check()
        with _translated(f"write {target}"):
            _made_again(lambda: self._replace(target, parts, durable=durable))
            if durable:
                _fsync_folder_if_there(target.parent)
        self._folder.check()

    def _replace(self, target: Path, parts: Sequence[Body], *, durable: bool) -> None:
        _make_folder(target.parent, durable=durable)
        temporary = self._temporary()
        try:
            _fill(temporary, parts, durable=durable)
            os.replace(temporary, _body(target))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def put_if_absent(self, key: str, body: bytes) -> bool:
        target = self._path(key)
        self._folder.check()
        with _translated(f"create {target}"):
            created = _made_again(lambda: self._create(target, body))
        try:
            # Also where the key exists: its writer may not have come so far, and a caller who finds its own earlier
            # body there takes it for done.
            _fsync_folder_if_there(target.parent)
        except OSError as error:
            raise OutcomeUnknown(f"{target} is there, but the disk did not confirm it: {error}") from error
        try:
            # A disk that went between the first look and the link has the key behind it, in the bare folder.
            self._folder.check()
        except StorageUnavailable as error:
            raise OutcomeUnknown(f"{error} Whether {key} was created is not known.") from error
        self._folder.has_taken(key)
        return created

    def _create(self, target: Path, body: bytes) -> bool:
        _make_folder(target.parent, durable=True)
        temporary = self._temporary()
        try:
            _fill(temporary, [body], durable=True)
            return self._link(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _link(self, temporary: Path, target: Path) -> bool:
        if not hasattr(os, "link"):
            return self._rename_folder(temporary, target)
        try:
            os.link(temporary, target)
        except OSError as error:
            # A folder in the way may be an emptied one, which is no key: the rename knows.
            if error.errno in _NO_LINKS or (error.errno in _TAKEN and target.is_dir()):
                return self._rename_folder(temporary, target)
            if error.errno in _TAKEN:
                return False
            raise
        return True

    def _rename_folder(self, temporary: Path, target: Path) -> bool:
        """Put-if-absent without hard links: renaming a folder onto a file or a filled folder is refused.

        The body is complete inside its folder before the rename, so nobody sees half of it; and since a file in the
        way refuses too, machines with and without hard links can share one home.
        """
        folder = self._temporary()
        folder.mkdir()
        try:
            os.replace(temporary, folder / BODY_IN_FOLDER)
            _fsync_folder(folder)
            try:
                os.rename(folder, target)
            except OSError as error:
                if error.errno in _TAKEN:
                    return False
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def digest(self, key: str) -> StoredDigest:
        with self._reading(f"read {self.root / key}"), self._open(key) as stored:
            sha256 = hashlib.file_digest(stored, "sha256").hexdigest()
            return StoredDigest(size_bytes=stored.tell(), sha256=sha256)

    def holds(self, key: str, parts: Sequence[Body], *, sha256: str) -> bool:  # noqa: ARG002
        return self.download(key, lambda: Compared(parts)).is_same

    def folders(self, prefix: str = "") -> list[str]:
        try:
            with self._reading(f"list {self.root / prefix}"), os.scandir(self._path(prefix)) as found:
                names = [f"{prefix}{one.name}/" for one in found if one.is_dir(follow_symlinks=False)]
        except KeyNotFound:
            return []
        # A folder that is a key, an emptied one and the one for temporaries hold no keys.
        return sorted(name for name in names if name != f"{TEMPORARY}/" and self._holds_keys(name))

    def list(self, prefix: str = "") -> list[StoredObject]:
        self._folder.check()
        with _translated(f"list {self.root / prefix}"):
            return sorted(self._walk(prefix), key=lambda found: found.key)

    def _walk(self, prefix: str) -> Iterator[StoredObject]:
        start = self._path(prefix.rpartition("/")[0])
        for folder, subfolders, files in os.walk(start, onerror=_raise_unless_absent):
            here = Path(folder)
            keys = {name: (here / name).relative_to(self.root).as_posix() for name in [*subfolders, *files]}
            # Other folders are not ours to look into: a disk's `lost+found` would refuse it.
            ours = [name for name in subfolders if keys[name] != TEMPORARY and _may_hold(keys[name], prefix)]
            in_folders = [name for name in ours if (here / name / BODY_IN_FOLDER).is_file()]
            subfolders[:] = [name for name in ours if name not in in_folders]
            for name in [*files, *in_folders]:
                if keys[name].startswith(prefix):
                    # A file may go while we look: it is then simply not there.
                    with contextlib.suppress(FileNotFoundError):
                        found = _body(here / name).stat()
                        yield StoredObject(key=keys[name], size_bytes=found.st_size, modified_at=found.st_mtime)

    def _holds_keys(self, folder: str) -> bool:
        if (self.root / folder / BODY_IN_FOLDER).is_file():
            return False
        with _translated(f"list {self.root / folder}"):
            return next(self._walk(folder), None) is not None

    def remove_if_empty(self) -> None:
        """Remove the home's folder if it holds nothing any more but our own emptied folder for temporaries."""
        with contextlib.suppress(OSError):
            (self.root / TEMPORARY).rmdir()
        with contextlib.suppress(OSError):
            self.root.rmdir()
        self._folder = SameFolder(self.root)

    def delete(self, key: str) -> None:
        target = self._path(key)
        self._folder.check()
        self._folder.has_lost(key)
        with _translated(f"delete {target}"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            body = _body(target)  # of a folder that is no key but holds keys, this names nothing
            body.unlink()
            # Emptied folders are only clutter; another writer may be filling one again, so no force.
            with contextlib.suppress(OSError):
                if body != target:
                    target.rmdir()
                for folder in itertools.takewhile(lambda folder: folder != self.root, target.parents):
                    folder.rmdir()

    def claim(self, attempt: int) -> None:
        self._owner = f"a{attempt:08d}"
        with _translated(f"tidy {self.root / TEMPORARY}"), contextlib.suppress(FileNotFoundError):
            for left in os.scandir(self.root / TEMPORARY):
                owner = left.name.partition("-")[0]
                is_ours = owner >= self._owner if owner != "x" else not _is_forgotten(left)
                if not is_ours:
                    _remove(Path(left.path))

    def clock_ahead_seconds(self) -> float:
        """By how much this machine's clock is ahead of the file server's; of a disk in this machine, by nothing."""
        key = f"{PROBE_PREFIX}{uuid.uuid4().hex}.json"
        try:
            before = time.time()
            self.write(key, [b"{}"])
            between = (before + time.time()) / 2
            with self._reading(f"look at {self.root / key}"):
                return between - _body(self._path(key)).stat().st_mtime
        finally:
            self.delete(key)

    def free_bytes(self) -> int | None:
        with _translated(f"look at {self.root}"):
            existing = next(folder for folder in [self.root, *self.root.absolute().parents] if folder.exists())
            return shutil.disk_usage(existing).free

    @contextlib.contextmanager
    def _reading(self, action: str) -> Iterator[None]:
        """As `_translated`; that a key isn't there is believed only of the folder that was there before."""
        try:
            with _translated(action, reading=True):
                yield
        except KeyNotFound:
            self._folder.check()
            raise
        self._folder.check()

    def _open(self, key: str) -> BufferedReader:
        path = self._path(key)
        try:
            return open(path, "rb")
        except IsADirectoryError:
            return open(path / BODY_IN_FOLDER, "rb")

    def _path(self, key: str) -> Path:
        """Where the key lies. Raises BadInput for one that leads out of the home: not every home was written by us."""
        if key.startswith("/") or ".." in key.split("/"):
            raise BadInput("leads out of the home", where=f"key {key} in {self.root}", fix="don't use this home")
        return self.root / key

    def _temporary(self) -> Path:
        folder = self.root / TEMPORARY
        _make_folder(folder, durable=True)
        return folder / f"{self._owner}-{uuid.uuid4().hex}"


def _body(path: Path) -> Path:
    """Where the body of the key at `path` lies, or would lie."""
    return path / BODY_IN_FOLDER if path.is_dir() else path


def _may_hold(folder: str, prefix: str) -> bool:
    """Whether keys that start with `prefix` can lie in `folder`, or under its own name."""
    return f"{folder}/".startswith(prefix) or prefix.startswith(f"{folder}/")


def _made_again(place: Callable[[], Placed]) -> Placed:
    """Run `place` again if a folder goes from under it: `delete` tidies emptied ones away, in any process."""
    for _ in range(_TRIES_MAX - 1):
        # FileExistsError: `mkdir` found the folder there, and gone when it looked whether it is one.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            return place()
    return place()


def _make_folder(folder: Path, *, durable: bool) -> None:
    """Create `folder`; a new folder's name is durable only once its parent is synced."""
    missing = [path for path in [folder, *folder.parents] if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if durable:
        for path in missing:
            _fsync_folder(path.parent)


def _fill(path: Path, parts: Sequence[Body], *, durable: bool) -> None:
    with open(path, "xb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_folder_if_there(folder: Path) -> None:
    """A folder that is gone was emptied by whoever deleted what we put there: nothing is left to make durable."""
    with contextlib.suppress(FileNotFoundError):
        _fsync_folder(folder)


def _is_forgotten(left: os.DirEntry[str]) -> bool:
    """A temporary of a command that no attempt owns: clutter once it is a day old. Its writer makes it anew if not."""
    try:
        return time.time() - left.stat().st_mtime > _NOBODYS_TEMPORARY_SECONDS
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _raise_unless_absent(error: OSError) -> None:
    if error.errno not in _ABSENT:
        raise error


@contextlib.contextmanager
def _translated(action: str, *, reading: bool = False) -> Iterator[None]:
    """Say which of our errors an OSError means, with what was being done.

    Only reading can find a key absent. A write that finds its temporary gone was taken over by a newer attempt
    (`claim`), and must not look like an empty home.
    """
    try:
        yield
    except OSError as error:
        if reading and error.errno in _ABSENT:
            raise KeyNotFound(action) from error
        if error.errno in _REFUSED:
            raise AccessDenied(f"Could not {action}: {error.strerror}. Check who owns the folder.") from error
        raise StorageUnavailable(f"Could not {action}: {error.strerror}.") from error
