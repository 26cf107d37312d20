"""`dbr stop` asks whoever holds the run, and leaves nothing behind where nobody does."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.runs.control import open_requests
from dreambooth_resume.runs.entries import Finished, encode_entry
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.home import log_key
from dreambooth_resume.runs.liveness import watch_for_a_beat
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import beat, dead_process, hold, moment, record_run


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    return storage


def kinds(storage: LocalStorage) -> list[str]:
    return [request.kind for _, request in open_requests(storage)]


def test_a_held_run_is_asked_and_what_happens_next_is_said(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    hold(storage, this_process())
    assert main(["stop", str(storage.root)]) == 0
    assert kinds(storage) == ["stop"]
    page = capsys.readouterr().out
    assert f"attempt 1 (pid {this_process().pid}" in page
    assert "exit code 76" in page
    assert f"dbr train --output_dir {storage.root} --resume latest" in page


@pytest.mark.parametrize("ending", ["stopped", "finished", "dead", "not begun"])
def test_a_run_that_nobody_holds_is_left_as_it_is(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    if ending == "dead":
        hold(storage, dead_process())
    elif ending != "not begun":
        attempt = begin(storage)
        attempt.commit(4)
        attempt.stop() if ending == "stopped" else attempt.committer.append(Finished(checkpoint=2))
    before = storage.list()
    assert main(["stop", str(storage.root)]) == 0
    assert storage.list() == before
    assert "Asked" not in capsys.readouterr().out


def test_json_says_whether_somebody_was_asked(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    hold(storage, this_process())
    assert main(["stop", "--json", str(storage.root)]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["asked"] is True
    assert page["request"]["nonce"] == open_requests(storage)[0][1].nonce


def test_a_holder_whose_clock_is_behind_ours_is_seen_by_its_moving_heartbeat(
    storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(storage, "gpu-7")
    # Its entry and its heartbeat seem hours old, by our clock.
    (entry,) = read_log(storage).entries
    storage.write(log_key(1), [encode_entry(entry.model_copy(update={"written_at": moment(seconds_ago=7200)}))])
    beat(storage, 1, seconds_ago=7200, counter=1)
    ticking = threading.Timer(0.2, lambda: beat(storage, 1, seconds_ago=7200, counter=2))
    ticking.start()
    assert main(["stop", str(storage.root)]) == 0
    ticking.join()
    assert kinds(storage) == ["stop"]


def test_a_heartbeat_that_does_not_move_is_watched_for_half_a_minute() -> None:
    storage = MemoryStorage()
    beat(storage, 1)
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    assert not watch_for_a_beat(storage, 1, monotonic=lambda: now, sleep=sleep)
    assert 30 <= now < 32
