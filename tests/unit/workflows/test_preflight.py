"""What is refused before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dreambooth_resume.config.load import parse_train
from dreambooth_resume.errors import BadInput, RefusedToGoOn
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.home import Place, find_place, open_home, stage_of
from dreambooth_resume.workflows.results import result_folder
from tests.fakes.watched_run import record_run


def place(folder: Path) -> Place:
    return find_place(parse_train(["--output_dir", str(folder)]))


def test_a_folder_is_home_and_stage(tmp_path: Path) -> None:
    found = place(tmp_path / "home")
    assert (found.storage.describe(), found.stage, found.is_remote) == (
        str(tmp_path / "home"),
        tmp_path / "home",
        False,
    )
    assert stage_of(found, "run") is None
    assert result_folder(found, ()) == tmp_path / "home"


@pytest.mark.parametrize("words", [["--storage_uri", "s3://bucket/dog"], ["--output_dir", "s3://bucket/dog"]])
def test_a_bucket_is_the_home_and_a_folder_here_the_stage(words: list[str], tmp_path: Path) -> None:
    found = find_place(parse_train([*words, "--stage_dir", str(tmp_path)]))
    assert found.storage.describe() == "s3://bucket/dog"
    assert (found.stage, found.is_remote) == (tmp_path, True)
    stage = stage_of(found, "run")
    assert stage is not None
    assert stage.root == tmp_path / "staged" / "run"


def test_the_output_folder_is_the_stage_of_a_bucket(tmp_path: Path) -> None:
    found = find_place(parse_train(["--storage_uri", "s3://bucket/dog", "--output_dir", str(tmp_path)]))
    assert found.stage == tmp_path


def test_without_an_output_folder_the_stage_is_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = find_place(parse_train(["--output_dir", "s3://bucket/dog"]))
    assert found.stage.is_relative_to(tmp_path)
    assert found.stage != find_place(parse_train(["--output_dir", "s3://bucket/cat"])).stage


def test_two_homes_are_refused() -> None:
    with pytest.raises(BadInput, match="the home is s3://bucket/a by storage_uri and s3://bucket/b by output_dir"):
        find_place(parse_train(["--storage_uri", "s3://bucket/a", "--output_dir", "s3://bucket/b"]))


def test_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BadInput, match="you may not write to") as refused:
        find_place(parse_train(["--output_dir", str(tmp_path / "home")]))
    assert refused.value.fix == "name a folder that you can write to"
    assert not (tmp_path / "home").exists()


def test_log_without_a_record_is_half_a_run(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log/00000001.json").write_text("{}")
    with pytest.raises(RefusedToGoOn, match=r"has a commit log but no run\.json"):
        open_home(place(tmp_path))


def test_empty_folder_is_a_home_without_a_run(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_bytes(b"x")
    home = open_home(place(tmp_path))
    assert home.record is None
    assert home.recorded is None


def test_a_new_home_inside_another_runs_is_refused_and_another_programs_file_is_none(tmp_path: Path) -> None:
    record_run(LocalStorage(tmp_path / "dog"))
    with pytest.raises(BadInput, match=r"lies inside the home of another run, .*/dog$"):
        open_home(place(tmp_path / "dog" / "checkpoint-5"))
    (tmp_path / "run.json").write_text('{"mine": true}')
    assert open_home(place(tmp_path / "cat")).record is None
