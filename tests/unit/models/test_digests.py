"""Names for the bytes of a model, computed once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from dreambooth_resume.models.digests import SourceDigests, default_cache_file, digest_files
from dreambooth_resume.models.source import ModelFile


def model_file(path: Path, name: str = "unet/weights") -> ModelFile:
    return ModelFile(component=name.split("/")[0], name=name, path=path, size_bytes=path.stat().st_size)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"12345678")
    return path


def test_digest_is_sha256_of_the_bytes(weights: Path) -> None:
    digests = digest_files([model_file(weights)], cache_file=None)
    assert digests.files == {"unet/weights": hashlib.sha256(b"12345678").hexdigest()}


def test_unchanged_file_is_not_read_again(weights: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "digests.json"
    first = digest_files([model_file(weights)], cache_file=cache)
    facts = weights.stat()
    # Other bytes behind the same size and time: only one who reads the file could tell.
    with weights.open("r+b") as file:
        file.write(b"abcdefgh")
    os.utime(weights, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert digest_files([model_file(weights)], cache_file=cache) == first


def test_changed_file_is_read_again(weights: Path, tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    first = digest_files([model_file(weights)], cache_file=cache)
    weights.write_bytes(b"abcdefgh")
    os.utime(weights, ns=(1, 1))
    assert digest_files([model_file(weights)], cache_file=cache) != first


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 3}', "\x00\xff"])
def test_damaged_cache_costs_time_and_changes_nothing(content: str, weights: Path, tmp_path: Path) -> None:
    cache = tmp_path / "digests.json"
    cache.write_text(content, encoding="latin-1")
    assert digest_files([model_file(weights)], cache_file=cache) == digest_files([model_file(weights)], cache_file=None)


def test_cache_that_cannot_be_written_changes_nothing(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder would have to be")
    cache = tmp_path / "file" / "digests.json"
    assert digest_files([model_file(weights)], cache_file=cache).files


def test_one_digest_for_components_changes_with_any_of_their_files_and_no_other() -> None:
    files = {"vae/a": "1", "vae/b": "2", "unet/a": "3", "vae_2/a": "4"}
    base = SourceDigests(files).of("vae")
    assert SourceDigests({**files, "unet/a": "9", "vae_2/a": "9"}).of("vae") == base
    assert SourceDigests({**files, "vae/b": "9"}).of("vae") != base
    assert SourceDigests(dict(reversed(files.items()))).of("vae") == base
    with pytest.raises(KeyError):
        SourceDigests(files).of("text_encoder")


def test_cache_lies_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_file() == tmp_path / "dreambooth_resume" / "digests.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says to ignore such a value
    assert default_cache_file().is_relative_to(Path.home())
