"""`dbr runs`: one line a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import beat, record_run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a finished, a stopped and a broken run below `runs`."""
    for name in ("done", "stopped", "broken"):
        storage = LocalStorage(tmp_path / "runs" / name)
        record_run(storage)
        attempt = begin(storage)
        attempt.commit(2)
        if name == "done":
            attempt.train_to_the_end()
        elif name == "stopped":
            attempt.stop()
            beat(storage, 1, step=2, phase="ended", exit_code=75)
        else:
            (tmp_path / "runs" / name / "log" / "00000002.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_run_has_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    head, broken, done, stopped = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["run", "state", "step", "durable"]
    assert re.match(r"runs/broken +unreadable .*00000002.json can't be read", broken)
    assert re.match(r"runs/done +finished +4/4 +4 ", done)
    assert re.match(r"runs/stopped +interrupted +2/4 +2 .* 0\.2500 ", stopped)


def test_json_has_summaries_and_problems(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--json", str(folder)]) == 0
    broken, done, _ = json.loads(capsys.readouterr().out)
    assert broken["summary"] is None
    assert "can't be read" in broken["problem"]
    assert done["summary"]["state"] == "finished"


def test_no_run_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.startswith("No run in .")
    assert main(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_folder_that_is_not_there_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "/nowhere/at/all"]) == 2
    assert "fix:" in capsys.readouterr().err
