"""Facts that others leave beside a run: each under a key of its own, read by whoever looks."""

from __future__ import annotations

import pytest

from dreambooth_resume.errors import StorageUnavailable
from dreambooth_resume.runs.notes import post_note, read_notes
from tests.fakes.memory_storage import MemoryStorage


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


def test_a_note_is_read_as_it_was_posted(storage: MemoryStorage) -> None:
    posted = post_note(storage, "exit", "the instance was reclaimed", attempt=3, values={"exit_code": -9})
    assert read_notes(storage) == (posted,)
    assert (posted.kind, posted.attempt, posted.values) == ("exit", 3, {"exit_code": -9})
    assert "@" in posted.written_by
    (key,) = storage.objects
    assert key == f"notes/exit-{posted.nonce}.json"


def test_notes_of_one_kind_are_read_alone_and_all_of_them_in_order(storage: MemoryStorage) -> None:
    posted = [post_note(storage, kind, kind) for kind in ("exit", "damage", "score", "exit")]
    assert [note.kind for note in read_notes(storage, "exit")] == ["exit", "exit"]
    moments = [note.written_at for note in read_notes(storage)]
    assert moments == sorted(moments)
    assert {note.nonce for note in read_notes(storage)} == {note.nonce for note in posted}


def test_foreign_and_damaged_files_are_passed_over(storage: MemoryStorage) -> None:
    post_note(storage, "exit", "seen")
    storage.objects["notes/.DS_Store"] = b"x"
    storage.objects["notes/exit-by-hand.json"] = b"{}"
    storage.objects[f"notes/exit-{'0' * 32}.json"] = b"torn"
    assert [note.text for note in read_notes(storage)] == ["seen"]


def test_a_kind_of_a_later_release_is_read(storage: MemoryStorage) -> None:
    note = post_note(storage, "exit", "seen")
    body = note.model_copy(update={"kind": "weather"}).model_dump_json().encode()
    storage.objects[f"notes/weather-{'0' * 32}.json"] = body
    assert "weather" in [found.kind for found in read_notes(storage)]


def test_storage_that_fails_is_not_a_home_without_notes(storage: MemoryStorage) -> None:
    post_note(storage, "exit", "seen")

    def fail(call: str, key: str) -> None:
        raise StorageUnavailable(f"{call} {key}")

    storage.before = fail
    with pytest.raises(StorageUnavailable):
        read_notes(storage)
