"""What is refused before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dreambooth_resume.errors import BadInput, RefusedToGoOn
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.workflows.preflight import open_home, refuse_several_processes


def test_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BadInput, match="you may not write to") as refused:
        open_home(LocalStorage(tmp_path / "home"), str(tmp_path / "home"))
    assert refused.value.fix == "name a folder that you can write to"
    assert not (tmp_path / "home").exists()


def test_log_without_a_record_is_half_a_run(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log/00000001.json").write_text("{}")
    with pytest.raises(RefusedToGoOn, match=r"has a commit log but no run\.json"):
        open_home(LocalStorage(tmp_path), str(tmp_path))


def test_empty_folder_is_a_home_without_a_run(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_bytes(b"x")
    home = open_home(LocalStorage(tmp_path), str(tmp_path))
    assert home.record is None
    assert home.recorded is None


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    refuse_several_processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="training with 2 processes is not available yet"):
        refuse_several_processes()
