"""The one folder that the page serves files from: copies of pictures and exported LoRAs, under names of our own.

Uploads lie beside it, never in it: what lies in it is shown by the browser as a page of ours.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from dreambooth_resume.errors import DbrError, KeyNotFound
from dreambooth_resume.runs.home import RUN, SAMPLES_PREFIX
from dreambooth_resume.storage.base import Storage

_BYTES_KEPT = 1_000_000_000
_EDGE = 384
"""Pixels of a small picture's longer side."""
_PIXELS_MAX = 64_000_000
_PARTIAL = ".tmp"
_UNREAD_SECONDS, _UNREAD_KEPT = 30.0, 1000
_SCRATCH_SECONDS = 4 * 3600.0


class Served:
    """A temporary folder, removed at the end of the process. Over a gigabyte the oldest files go."""

    def __init__(self, *, bytes_kept: int = _BYTES_KEPT, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="dbr-ui-"))
        self.folder = self._root / "files"
        self.folder.mkdir()
        self.uploads = self._root / "uploads"
        """Where Gradio keeps what was dropped, for a day; it offers these for download alone, whatever they are."""
        self._bytes_kept = bytes_kept
        self._monotonic = monotonic
        self._unread: dict[Path, tuple[float, Exception]] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def picture(self, storage: Storage, key: str, *, small: bool = False) -> Path:
        """A copy of a sample's PNG. `key` is what the home says: any text.

        Raises KeyNotFound, ValueError for a key that is none of a sample and for what is no PNG, OSError where the copy
        can't be written, and as the storage.
        """
        if not key.startswith(SAMPLES_PREFIX) or ".." in key.split("/"):
            raise ValueError("no key of a sample")
        run = f"{storage.describe()}\0{_run_in(storage)}"
        wanted, other = (self._path(run, key, ending) for ending in ((".webp", ".png") if small else (".png", ".webp")))
        if not wanted.is_file():
            body, made = self._read(storage, key, of=wanted.with_suffix(""))
            self._put(other, body if small else made)
            self._put(wanted, made if small else body)  # last: where there is little room the older one goes
        return wanted

    def _read(self, storage: Storage, key: str, *, of: Path) -> tuple[bytes, bytes]:
        """A sample and the same small. What could not be read is not asked for again by every tick of every tab."""
        until, error = self._unread.get(of, (0.0, None))
        if error is not None and self._monotonic() < until:
            raise error.with_traceback(None)
        try:
            body = storage.read(key)
            return body, small_picture(body, formats=("PNG",))
        except (KeyNotFound, ValueError, DbrError) as failed:
            if len(self._unread) > _UNREAD_KEPT:
                self._unread.clear()
            self._unread[of] = self._monotonic() + _UNREAD_SECONDS, failed
            raise

    def file(self, name: str, *parts: str) -> Path:
        """Where a file called `name` goes, in a folder of its own that is named after `parts`, and made."""
        folder = self.place(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def place(self, *parts: str) -> Path:
        """The folder that is named after `parts`, made or not."""
        return self.folder / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]

    def scratch(self, name: str) -> Path:
        """A folder that is not served, and not made; what others have left there for hours is removed."""
        made = self._root / "made"
        made.mkdir(parents=True, exist_ok=True)
        for left in made.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _SCRATCH_SECONDS:
                    shutil.rmtree(left, ignore_errors=True)
        return made / name

    def tidy(self) -> None:
        """Remove the oldest files until the folder is within its size."""
        with self._lock:
            files = sorted(self._files())
            left = sum(size for _, size, _ in files)
            for _, size, path in files:
                if left <= self._bytes_kept:
                    return
                left -= size
                path.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Moment, size and path of each. What another thread is writing is none yet, and any file may go meanwhile."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder) / name
                if path.suffix != _PARTIAL:
                    with contextlib.suppress(FileNotFoundError):
                        found = path.stat()
                        yield found.st_mtime, found.st_size, path

    def _put(self, path: Path, body: bytes) -> None:
        # The folder may be gone: a system that tidies its temporary files takes old ones away while the page is open.
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{threading.get_ident()}{_PARTIAL}")
        try:
            partial.write_bytes(body)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)  # on a full disk the half that was written
        self.tidy()

    def _path(self, home: str, key: str, ending: str) -> Path:
        return self.folder / (hashlib.sha256(f"{home}\0{key}".encode()).hexdigest()[:32] + ending)


def _run_in(storage: Storage) -> str:
    """Another one for another run: one that is begun again in the same home makes its pictures under the same keys."""
    try:
        return hashlib.sha256(storage.read(RUN)).hexdigest()
    except KeyNotFound:
        return ""


def small_picture(body: bytes, *, formats: tuple[str, ...] | None = None) -> bytes:
    """The picture at a size for lists. Raises ValueError for what is none of `formats`, or too large."""
    try:
        with Image.open(io.BytesIO(body), formats=formats) as image:
            if image.width * image.height > _PIXELS_MAX:
                raise ValueError("more pixels than are shown")
            made = image.convert("RGB")
            made.thumbnail((_EDGE, _EDGE))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"no picture: {error}") from error
    out = io.BytesIO()
    made.save(out, "WEBP", quality=85)
    return out.getvalue()
