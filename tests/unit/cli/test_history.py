"""`dbr history`: every attempt, the totals, and what others noted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.runs.notes import post_note, read_notes
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import beat, record_run


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """Attempt 1 on A was lost at step 3, one after its last save; attempt 2 on B stopped at step 3."""
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    first = begin(storage, "A")
    first.commit(1)
    first.commit(2)
    beat(storage, 1, step=3, seconds_ago=600)
    second = begin(storage, "B")
    second.commit(3)
    second.stop()
    return storage


def test_every_attempt_says_where_from_where_to_where_and_why_it_ended(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["history", str(storage.root)]) == 0
    head, first, second, _, totals = capsys.readouterr().out.splitlines()
    assert head.startswith("attempt  began (UTC)")
    assert re.match(r"1 .* A, pid 1 +0 +3 +2 +1 +lost +- +the next attempt found it gone$", first)
    assert re.match(r"2 .* B, pid 1 +2 +3 +3 +- +stopped +75 +SIGTERM$", second)
    assert totals.startswith("2 attempts on 2 machines, 2 interruptions; 3 checkpoints committed; 4 steps trained, 1")


def test_notes_are_shown_with_who_wrote_them(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    post_note(storage, "exit", "reclaimed by the cloud", attempt=1)
    assert main(["history", str(storage.root)]) == 0
    page = capsys.readouterr().out
    assert re.search(r"noted by others\n.* exit +attempt 1 +reclaimed by the cloud +\(.*@.*\)", page)


def test_json_holds_all_of_it(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    post_note(storage, "score", "CLIP-I", checkpoint=2, values={"clip_i": 0.81})
    assert main(["history", str(storage.root), "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert [attempt["number"] for attempt in page["attempts"]] == [1, 2]
    assert page["totals"]["redone_steps"] == 1
    assert page["notes"][0]["values"] == {"clip_i": 0.81}


def test_a_run_that_nobody_has_trained_has_no_attempts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_run(LocalStorage(tmp_path / "dog"))
    assert main(["history", str(tmp_path / "dog")]) == 0
    assert capsys.readouterr().out.startswith("0 attempts on 0 machines")


def test_no_run_is_bad_input(tmp_path: Path) -> None:
    assert main(["history", str(tmp_path)]) == 2


class TestVerifyLeavesANote:
    @pytest.fixture(autouse=True)
    def _damage(self, storage: LocalStorage) -> None:
        (storage.root / "checkpoint-2" / "trainer_state.safetensors").write_bytes(b"torn")

    def test_with_the_reason_and_once(self, storage: LocalStorage) -> None:
        for _ in range(2):
            assert main(["checkpoints", "verify", str(storage.root)]) == 78
        (note,) = read_notes(storage)
        assert (note.kind, note.checkpoint) == ("damage", 3)
        assert re.match(r"checkpoint-2: trainer_state.safetensors has 4 of \d+ bytes", note.text)

    def test_unless_told_not_to(self, storage: LocalStorage) -> None:
        assert main(["checkpoints", "verify", str(storage.root), "--no-note"]) == 78
        assert read_notes(storage) == ()

    def test_and_a_whole_checkpoint_leaves_none(self, storage: LocalStorage) -> None:
        assert main(["checkpoints", "verify", str(storage.root), "1"]) == 0
        assert read_notes(storage) == ()
