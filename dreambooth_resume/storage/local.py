"""A folder as a home: local disk, network file system, or a mounted drive without hard links."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from dreambooth_resume.errors import AccessDenied, KeyNotFound, OutcomeUnknown, StorageUnavailable
from dreambooth_resume.storage.base import Body, StoredDigest, StoredObject

TEMPORARY = ".tmp"
# Where hard links don't exist, put-if-absent creates the key as a folder that holds its body under this name.
BODY_IN_FOLDER = "body"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}
_ABSENT = {errno.ENOENT, errno.ENOTDIR}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOBODYS_TEMPORARY_SECONDS = 24 * 3600.0


class LocalStorage:
    """Keys are files below `root`; a write is a temporary file, fsync, rename, fsync of the folder."""

    hint_interval_seconds = 1.0

    def __init__(self, root: Path) -> None:
        self.root = root
        self._owner = "x"

    def describe(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        with _translated(f"read {self.root / key}", reading=True):
            return self._body(key).read_bytes()

    def write(self, key: str, parts: Sequence[Body], *, durable: bool = True) -> None:
        target = self.root / key
        with _translated(f"write {target}"):
            temporary = self._temporary()
            try:
                _fill(temporary, parts, durable=durable)
                self._make_folder(target.parent, durable=durable)
                os.replace(temporary, target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            if durable:
                _fsync_folder(target.parent)

    def put_if_absent(self, key: str, body: bytes) -> bool:
        target = self.root / key
        with _translated(f"create {target}"):
            self._make_folder(target.parent, durable=True)
            temporary = self._temporary()
            _fill(temporary, [body], durable=True)
            try:
                created = self._link(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
        if created:
            try:
                _fsync_folder(target.parent)
            except OSError as error:
                raise OutcomeUnknown(f"{target} was created, but the disk did not confirm it: {error}") from error
        return created

    def _link(self, temporary: Path, target: Path) -> bool:
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            if error.errno not in _NO_LINKS:
                raise
            return self._rename_folder(temporary, target)
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
        with _translated(f"read {self.root / key}", reading=True), open(self._body(key), "rb") as stored:
            sha256 = hashlib.file_digest(stored, "sha256").hexdigest()
            return StoredDigest(size_bytes=stored.tell(), sha256=sha256)

    def list(self, prefix: str = "") -> list[StoredObject]:
        with _translated(f"list {self.root / prefix}"):
            return sorted(self._walk(prefix), key=lambda found: found.key)

    def _walk(self, prefix: str) -> Iterator[StoredObject]:
        start = self.root / prefix.rpartition("/")[0]
        for folder, subfolders, files in os.walk(start, onerror=_raise_unless_absent):
            here = Path(folder)
            subfolders[:] = [name for name in subfolders if not (here == self.root and name == TEMPORARY)]
            for name in [*files, *(name for name in subfolders if (here / name / BODY_IN_FOLDER).is_file())]:
                key = (here / name).relative_to(self.root).as_posix()
                if key.startswith(prefix) and not (name == BODY_IN_FOLDER and here.suffix == ".json"):
                    # A file may go while we look: it is then simply not there.
                    with contextlib.suppress(FileNotFoundError):
                        yield StoredObject(key=key, size_bytes=self._body(key).stat().st_size)

    def delete(self, key: str) -> None:
        target = self.root / key
        with _translated(f"delete {target}"), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink()
            # An emptied checkpoint folder is only clutter; another writer may be filling it again, so no force.
            with contextlib.suppress(OSError):
                if target.parent != self.root:
                    target.parent.rmdir()

    def claim(self, attempt: int) -> None:
        self._owner = f"a{attempt:08d}"
        with _translated(f"tidy {self.root / TEMPORARY}"), contextlib.suppress(FileNotFoundError):
            for left in os.scandir(self.root / TEMPORARY):
                owner = left.name.partition("-")[0]
                is_ours = owner >= self._owner if owner != "x" else not _is_forgotten(left)
                if not is_ours:
                    _remove(Path(left.path))

    def free_bytes(self) -> int | None:
        with _translated(f"look at {self.root}"):
            existing = next(folder for folder in [self.root, *self.root.absolute().parents] if folder.exists())
            return shutil.disk_usage(existing).free

    def _body(self, key: str) -> Path:
        path = self.root / key
        return path / BODY_IN_FOLDER if path.is_dir() else path

    def _temporary(self) -> Path:
        folder = self.root / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self._owner}-{uuid.uuid4().hex}"

    def _make_folder(self, folder: Path, *, durable: bool) -> None:
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


def _is_forgotten(left: os.DirEntry[str]) -> bool:
    """A temporary of a command that no attempt owns: clutter once it is a day old by the file system's clock."""
    return time.time() - left.stat().st_mtime > _NOBODYS_TEMPORARY_SECONDS


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
