"""The runs below a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.registry import find_runs
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import record_run


def make_run(home: Path) -> None:
    storage = LocalStorage(home)
    record_run(storage)
    begin(storage).train_to_the_end()


def test_runs_are_found_at_any_depth_and_sorted(tmp_path: Path) -> None:
    make_run(tmp_path / "dogs" / "rex")
    make_run(tmp_path / "cat")
    (tmp_path / "notes").mkdir()
    found = find_runs(str(tmp_path))
    assert [Path(run.home).name for run in found] == ["cat", "rex"]
    assert [run.summary.state for run in found if run.summary] == ["finished", "finished"]


def test_a_home_may_be_named_itself_and_is_not_looked_into(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_run(tmp_path / "inputs" / "a copy")
    assert [run.home for run in find_runs(str(tmp_path))] == [str(tmp_path)]


def test_hidden_folders_and_what_lies_very_deep_are_not_looked_into(tmp_path: Path) -> None:
    make_run(tmp_path / ".trash" / "old")
    make_run(tmp_path / "a/b/c/d/e/f/g")
    assert find_runs(str(tmp_path)) == ()


def test_one_broken_run_does_not_hide_the_others(tmp_path: Path) -> None:
    make_run(tmp_path / "good")
    make_run(tmp_path / "broken")
    (tmp_path / "broken" / "log" / "00000006.json").write_text("{")
    broken, good = find_runs(str(tmp_path))
    assert broken.summary is None
    assert "00000006.json" in (broken.problem or "")
    assert good.summary is not None


@pytest.mark.parametrize("name", ["missing", "file", "gopher://bucket/runs"])
def test_what_is_no_folder_is_refused_with_the_fix(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput) as raised:
        find_runs(name if "://" in name else str(tmp_path / name))
    assert raised.value.fix
