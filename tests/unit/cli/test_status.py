"""`dbr status`: what is shown of a run, and what is said where there is none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import beat, dead_process, hold, record_run


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    return storage


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_a_running_run_shows_step_durable_step_speed_and_time_left(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(storage, steps=10).commit(2)
    hold(storage, this_process())
    beat(storage, 2, step=4, process=this_process())
    page = shown(capsys, "status", str(storage.root))
    assert re.search(r"state +running", page)
    assert re.search(r"step +4 of 10 +40 %", page)
    assert re.search(r"durable +step 2, \d s ago\n", page)
    assert re.search(r"speed +8.0 samples/s +left 0:03", page)
    assert f"pid {this_process().pid}" in page
    assert page.endswith(f"next: dbr stop {storage.root} asks it to save and stop\n")


def test_a_vanished_run_shows_what_will_be_trained_again_and_how_to_go_on(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(storage, steps=10).commit(2)
    gone = dead_process()
    hold(storage, gone)
    beat(storage, 2, step=5, process=gone)
    page = shown(capsys, "status", str(storage.root))
    assert "3 steps will be trained again" in page
    assert f"dbr train --output_dir {storage.root} --resume latest goes on from step 2" in page


def test_attempts_are_listed_with_their_ends(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    first = begin(storage)
    first.commit(2)
    first.stop()
    begin(storage, "gpu-2").train_to_the_end()
    page = shown(capsys, "status", str(storage.root))
    assert re.search(r"1 .* A +1 +0 +2 +stopped +75 .*SIGTERM", page)
    assert re.search(r"2 .* gpu-2 +1 +2 +4 +finished +0", page)
    assert "pytorch_lora_weights.safetensors" in page


def test_only_the_last_ten_attempts_are_listed(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    begin(storage).commit(2)
    for _ in range(11):
        hold(storage, dead_process())
    assert "and 2 attempts before" in shown(capsys, "status", str(storage.root))


def test_json_holds_everything_and_is_strict(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    begin(storage).commit(2)
    beat(storage, 1, step=3)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    page = json.loads(shown(capsys, "status", "--json", str(storage.root)), parse_constant=refuse)
    assert page["summary"]["durable_step"] == 2
    assert page["summary"]["loss"] == 0.25
    assert [attempt["number"] for attempt in page["attempts"]] == [1]


@pytest.mark.parametrize(
    ("home", "fix"),
    [
        ("missing", "dbr runs FOLDER"),
        (".", "such as dog"),
        ("dog/log", "name the home: dog"),
        ("dog/run.json", "name the --output_dir"),
        ("empty", "dbr runs FOLDER"),
        ("gs://bucket/dog", "a folder"),
    ],
)
def test_what_is_no_run_is_bad_input_with_the_fix(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: str, fix: str
) -> None:
    monkeypatch.chdir(storage.root.parent)
    (storage.root.parent / "empty").mkdir()
    begin(storage).commit(1)
    assert main(["status", home]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert fix in lines[1]


@pytest.mark.parametrize("words", [["status"], ["status", "a", "b"], ["status", "a", "--jsn"]])
def test_a_wrong_command_line_is_bad_input(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 2
    assert "dbr status" in capsys.readouterr().err


def test_status_of_a_run_takes_little_time_and_loads_no_torch(storage: LocalStorage) -> None:
    begin(storage).train_to_the_end()
    program = (
        "import sys, time\n"
        "from dreambooth_resume.cli.main import main\n"
        f"assert main(['status', {str(storage.root)!r}]) == 0\n"
        f"assert main(['runs', {str(storage.root.parent)!r}]) == 0\n"
        f"assert main(['checkpoints', 'verify', {str(storage.root)!r}]) == 0\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & sys.modules.keys()\n"
        # The table of all options would be a third of the time.
        "assert 'dreambooth_resume.config.schema' not in sys.modules\n"
        "assert time.process_time() < 0.6\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
