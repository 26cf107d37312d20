"""Commands of the page: processes of their own, one at a time for each thing, as the user could type them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dreambooth_resume.ui.commands import Command, Commands


@pytest.fixture
def commands() -> Commands:
    return Commands()


def test_a_double_click_runs_one_command_and_its_words_reach_no_shell(commands: Commands, tmp_path: Path) -> None:
    place = f"{tmp_path}/$(touch {tmp_path}/hacked); echo"
    first = commands.begin(place, "look", ["runs", place])
    assert commands.begin(place, "look", ["runs", place]).id == first.id
    ended = commands.wait(first, seconds=120.0)
    assert ended.state == "failed"
    assert "there is no such folder" in ended.text
    assert not (tmp_path / "hacked").exists()
    assert commands.of(place) == (ended,)
    assert commands.begin(place, "look", ["runs", place]).id != first.id
    assert ended.typed.startswith("dbr runs '")


def test_what_it_said_is_kept_and_its_end_is_told() -> None:
    told: list[Command] = []
    commands = Commands(on_end=told.append)
    ended = commands.wait(commands.begin("dog", "help", ["options", "seed"]), seconds=120.0)
    assert (ended.state, "seed" in ended.text) == ("done", True)
    assert [one.id for one in told] == [ended.id]
    assert ended.ended_at is not None
    assert ended.ended_at >= ended.at
    assert commands.newest() == (ended,)


def test_a_command_has_the_users_environment_and_not_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib; pathlib.Path(os.environ['MARK']).write_text(os.environ.get('HF_HUB_OFFLINE', 'unset'))"
    )
    environment = {**os.environ, "MARK": str(tmp_path / "mark"), "PYTHONPATH": str(tmp_path)}
    del environment["HF_HUB_OFFLINE"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    commands = Commands(environment=environment)
    commands.wait(commands.begin("dog", "help", ["--version"]), seconds=120.0)
    assert (tmp_path / "mark").read_text() == "unset"
