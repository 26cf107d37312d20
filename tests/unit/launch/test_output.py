"""What was printed is in the home, piece by piece, and read back line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.errors import StorageUnavailable
from dreambooth_resume.launch.output import PIECE_BYTES, OutputCopy, copied_lines, last_copied_lines
from dreambooth_resume.runs.home import OUTPUT_PREFIX, is_hint
from tests.fakes.memory_storage import MemoryStorage


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "output.log"
    file.write_text("of an earlier supervisor\n")
    return file


def shown(storage: MemoryStorage, *, piece_bytes: int = PIECE_BYTES) -> list[str]:
    return list(copied_lines(storage, is_over=lambda: True, piece_bytes=piece_bytes) or [])


def add(file: Path, text: str) -> None:
    with file.open("a") as out:
        out.write(text)


def test_what_is_added_is_copied_and_what_was_there_is_not(file: Path) -> None:
    storage = MemoryStorage()
    copy = OutputCopy(storage, file, interval_seconds=60.0)
    assert copied_lines(storage, is_over=lambda: True) is None
    add(file, "step 1\nste")
    copy.copy()
    assert shown(storage) == ["step 1", "ste"]
    add(file, "p 2\n")
    copy.copy()
    assert shown(storage) == ["step 1", "step 2"]
    assert all(is_hint(key) for key in storage.objects)


def test_long_output_is_several_pieces_and_only_the_last_is_rewritten(
    file: Path,
) -> None:
    storage = MemoryStorage()
    copy = OutputCopy(storage, file, interval_seconds=60.0, piece_bytes=10)
    lines = [f"line {number} ü" for number in range(7)]
    for line in lines:
        add(file, line + "\n")
        copy.copy()
    assert len(storage.objects) == 7
    assert shown(storage, piece_bytes=10) == lines


def test_output_without_end_is_not_copied_without_end(file: Path) -> None:
    storage = MemoryStorage()
    copy = OutputCopy(storage, file, interval_seconds=60.0, piece_bytes=10, pieces_at_most=3)
    add(file, "x" * 1000)
    copy.copy()
    assert sum(map(len, storage.objects.values())) == 30


def test_storage_trouble_costs_nothing_and_the_rest_comes_at_the_end(file: Path) -> None:
    storage, down = MemoryStorage(), [True]

    def trouble(_call: str, _key: str) -> None:
        if down[0]:
            raise StorageUnavailable("503")

    storage.before = trouble
    copy = OutputCopy(storage, file, interval_seconds=0.01)
    copy.start()
    add(file, "one\n")
    down[0] = False
    add(file, "two\n")
    copy.close()
    assert shown(storage) == ["one", "two"]


def test_the_newest_supervisor_is_shown(file: Path) -> None:
    storage = MemoryStorage()
    for text in ("first\n", "second\n"):
        copy = OutputCopy(storage, file, interval_seconds=60.0)
        add(file, text)
        copy.copy()
    assert shown(storage) == ["second"]


def test_the_end_of_a_long_output_takes_its_last_pieces_alone() -> None:
    storage = MemoryStorage()
    assert last_copied_lines(storage) is None
    for number, text in enumerate((b"one\ntw", b"o\nthree\nfo", b"ur\nfive\n"), start=1):
        storage.put_if_absent(f"{OUTPUT_PREFIX}0000/{number:05d}.txt", text)
    assert last_copied_lines(storage) == ["three", "four", "five"]
    assert last_copied_lines(storage, pieces=3) == ["one", "two", "three", "four", "five"]
