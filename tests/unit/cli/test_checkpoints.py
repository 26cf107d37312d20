"""`dbr checkpoints list | verify | delete`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.runs.entries import Stopped
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import record_run


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    """A run that stopped with checkpoints 2 and 3; 1 was retired."""
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    attempt = begin(storage, limit=2)
    for step in (1, 2, 3):
        attempt.commit(step)
    attempt.stop()
    return storage


def damage(storage: LocalStorage, folder: str) -> None:
    (storage.root / folder / "trainer_state.safetensors").write_bytes(b"torn")


def test_list_shows_what_exists_and_counts_the_rest(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "list", str(storage.root)]) == 0
    _, two, three, rest = capsys.readouterr().out.splitlines()
    assert re.match(r"checkpoint-2 +2 +1 .* live$", two)
    assert re.match(r"checkpoint-3 +3 +1 .* live +the newest", three)
    assert rest == "and 1 retired one: --all"
    assert main(["checkpoints", "list", "--all", str(storage.root)]) == 0
    assert re.search(r"checkpoint-1 .* retired", capsys.readouterr().out)


def test_list_shows_why_one_was_set_aside(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    damage(storage, "checkpoint-3")
    begin(storage, "B")
    assert main(["checkpoints", "list", str(storage.root), "--json"]) == 0
    infos = {info["folder"]: info for info in json.loads(capsys.readouterr().out)}
    assert infos["checkpoint-3"]["state"] == "set aside"
    assert "trainer_state.safetensors has 4 of" in infos["checkpoint-3"]["note"]
    assert infos["checkpoint-2"]["is_newest"]


def test_verify_of_whole_checkpoints_ends_with_0(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "verify", str(storage.root)]) == 0
    assert capsys.readouterr().out.endswith("2 checkpoints, 6 files: every byte is as it was committed.\n")


def test_verify_names_the_damaged_file_and_ends_with_78(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(storage, "checkpoint-3")
    assert main(["checkpoints", "verify", str(storage.root)]) == 78
    page = capsys.readouterr().out
    assert re.search(r"checkpoint-3/trainer_state.safetensors .* damaged +trainer_state.safetensors has 4 of", page)
    assert f"dbr checkpoints delete {storage.root} checkpoint-3" in page
    assert main(["checkpoints", "verify", str(storage.root), "2"]) == 0
    capsys.readouterr()
    assert main(["checkpoints", "verify", str(storage.root), "--json"]) == 78
    assert json.loads(capsys.readouterr().out)["damaged"] == 1


def test_delete_without_a_terminal_needs_yes(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "delete", str(storage.root), "2"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert (storage.root / "checkpoint-2").exists()


def test_delete_retires_in_the_log_and_removes_the_files(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoints", "delete", str(storage.root), "2", "--yes"]) == 0
    assert "Deleted checkpoint-2 (step 2" in capsys.readouterr().out
    last = read_log(storage).last
    assert last is not None
    assert isinstance(last.body, Stopped)
    assert last.body.retire == (3,)
    assert not (storage.root / "checkpoint-2").exists()
    assert (storage.root / "checkpoint-3").exists()


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["delete"], "checkpoints delete"),
        (["delete", "17", "--yes"], "checkpoint-2, checkpoint-3"),
        (["delete", "1", "--yes"], "checkpoint-2, checkpoint-3"),
        (["delete", "2", "3", "--yes"], "checkpoints delete"),
        (["list", "2"], "list HOME"),
        (["verify", "17"], "checkpoint-2"),
    ],
)
def test_wrong_words_are_bad_input_with_the_fix(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str], words: list[str], fix: str
) -> None:
    action, *rest = words
    before = storage.list()
    assert main(["checkpoints", action, str(storage.root), *rest]) == 2
    assert fix in capsys.readouterr().err.splitlines()[1]
    assert storage.list() == before


def test_an_unknown_action_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "remove", "dog"]) == 2
    assert "list" in capsys.readouterr().err
