"""SHA-256 of the base model's files, computed once a machine: seven gigabytes are not read again at every start."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreambooth_resume.models.source import ModelFile

logger = logging.getLogger(__name__)

_MAX_ENTRIES = 1000
_THREADS = 4


@dataclass(frozen=True, slots=True)
class SourceDigests:
    """Name of a file in the model ("unet/config.json") -> SHA-256 of its bytes, in hex."""

    files: Mapping[str, str]

    def of(self, *components: str) -> str:
        """One SHA-256 for everything in these components. Raises KeyError for a component without files."""
        chosen = {}
        for component in components:
            own = {name: digest for name, digest in self.files.items() if name.startswith(f"{component}/")}
            if not own:
                raise KeyError(component)
            chosen.update(own)
        return hashlib.sha256(json.dumps(chosen, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def default_cache_file() -> Path:
    """`dreambooth_resume/digests.json` in the user's cache folder (XDG_CACHE_HOME is honoured)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return folder / "dreambooth_resume" / "digests.json"


def digest_files(files: Iterable[ModelFile], *, cache_file: Path | None) -> SourceDigests:
    """Digests of these files, from `cache_file` where path, size and modification time are those of last time.

    `cache_file` None means no cache. A cache that can't be read or written costs time and changes nothing.
    """
    files = sorted(files, key=lambda file: file.name)
    known = _read_cache(cache_file)
    keys = {file.name: _cache_key(file.path) for file in files}
    # Several parts of a model may be in one file.
    unknown = {keys[file.name]: file.path for file in files if keys[file.name] not in known}
    if unknown:
        # hashlib lets go of the interpreter lock, so four threads read and hash four files at once.
        with ThreadPoolExecutor(max_workers=_THREADS) as pool:
            known.update(zip(unknown, pool.map(_sha256, unknown.values()), strict=True))
        _write_cache(cache_file, known)
    return SourceDigests({file.name: known[keys[file.name]] for file in files})


def file_digest(path: Path, *, cache_file: Path | None) -> str:
    """The digest of one file, by the same cache."""
    known = _read_cache(cache_file)
    key = _cache_key(path)
    if key not in known:
        known[key] = _sha256(path)
        _write_cache(cache_file, known)
    return known[key]


def remember_digest(path: Path, sha256: str, *, cache_file: Path | None) -> None:
    """Spare the next look at `path` the reading: whoever wrote the file has hashed what it wrote."""
    _write_cache(cache_file, {**_read_cache(cache_file), _cache_key(path): sha256})


def _cache_key(path: Path) -> str:
    real = path.resolve()
    facts = real.stat()
    return f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ino} {real}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_cache(cache_file: Path | None) -> dict[str, str]:
    if cache_file is None:
        return {}
    try:
        content = json.loads(cache_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(value, str) and len(value) == 64}


def _write_cache(cache_file: Path | None, known: Mapping[str, str]) -> None:
    if cache_file is None:
        return
    newest = dict(list(known.items())[-_MAX_ENTRIES:])
    try:
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache_file.parent, delete=False, encoding="utf-8") as file:
            json.dump(newest, file, indent=0)
        # Two runs may end here at once; each puts a complete file, and the later one wins.
        Path(file.name).replace(cache_file)
    except OSError as error:
        logger.info(
            "can't keep the digests of the base model in %s (%s): next time they are computed again", cache_file, error
        )
