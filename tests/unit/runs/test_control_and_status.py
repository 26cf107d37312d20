"""Requests by anyone, and what an attempt says of itself."""

from __future__ import annotations

import logging
import os
import threading
import time

import pytest

from dreambooth_resume.errors import AccessDenied, StorageUnavailable
from dreambooth_resume.runs.control import open_requests, post_request
from dreambooth_resume.runs.home import (
    checkpoint_folder,
    checkpoint_name,
    control_key,
    log_key,
    log_number,
    metrics_key,
    metrics_segment,
    status_key,
)
from dreambooth_resume.runs.status import HEARTBEAT_SECONDS, Heartbeat, Status, read_status
from tests.fakes.logs import ELSEWHERE
from tests.fakes.memory_storage import MemoryStorage

pytestmark = pytest.mark.quick


@pytest.fixture
def home() -> MemoryStorage:
    return MemoryStorage()


def test_requests_are_read_oldest_first_and_stay_until_somebody_removes_them(home: MemoryStorage) -> None:
    posted = []
    for kind in ("save", "stop"):
        posted.append(post_request(home, kind))  # type: ignore[arg-type]
        time.sleep(0.002)
    posted.append(post_request(home, "retire", checkpoint=7))
    found = open_requests(home)
    assert [request for _, request in found] == posted
    assert found[2][1].checkpoint == 7
    home.delete(found[0][0])
    assert [request for _, request in open_requests(home)] == posted[1:]


def test_foreign_files_and_requests_of_later_releases_are_passed_over(home: MemoryStorage) -> None:
    request = post_request(home, "stop")
    home.objects["control/.DS_Store"] = b"\x00\xff"
    home.objects["control/probe-1.json"] = b"f00"
    home.objects[control_key(1, "later")] = b'{"kind": "dance", "nonce": "n", "asked_by": "me"}'
    assert [found for _, found in open_requests(home)] == [request]


def test_a_user_without_a_name_can_ask(home: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container started with a bare user id nothing knows the name."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1234567)
    assert post_request(home, "stop").asked_by.startswith("uid 1234567@")


@pytest.mark.parametrize("error", [AccessDenied("403"), StorageUnavailable("503")])
def test_requests_that_cannot_be_read_are_not_taken_for_none(home: MemoryStorage, error: Exception) -> None:
    post_request(home, "stop")

    def answer(call: str, _key: str) -> None:
        if call == "read":
            raise error

    home.before = answer
    with pytest.raises(type(error)):
        open_requests(home)


def test_a_status_that_is_not_there_or_torn_is_none(home: MemoryStorage) -> None:
    assert read_status(home, 3) is None
    for body in (b"", b"{", b"\xff\x00", b'{"attempt": 3}'):
        home.objects[status_key(3)] = body
        assert read_status(home, 3) is None


@pytest.mark.parametrize("loss", [0.5, None, float("nan")])
def test_a_status_is_read_as_it_was_written(home: MemoryStorage, loss: float | None) -> None:
    status = Status(
        attempt=3,
        counter=9,
        updated_at="2026-01-01T00:00:00+00:00",
        phase="training",
        step=5,
        max_train_steps=10,
        loss=loss,
        process=ELSEWHERE,
    )
    home.write(status_key(3), [status.model_dump_json().encode()])
    read = read_status(home, 3)
    assert read is not None
    assert repr(read) == repr(status)


def test_the_heartbeat_moves_and_survives_storage_trouble_and_bugs(caplog: pytest.LogCaptureFixture) -> None:
    beats: list[int] = []
    enough = threading.Event()

    def beat(counter: int) -> None:
        beats.append(counter)
        if counter >= 5:
            enough.set()
        if counter == 2:
            raise StorageUnavailable("503")
        if counter == 3:
            raise ValueError("a bug")

    heartbeat = Heartbeat(beat, interval_seconds=0.005)
    with caplog.at_level(logging.ERROR):
        heartbeat.start()
        assert enough.wait(10)
    heartbeat.close()
    assert beats[:5] == [1, 2, 3, 4, 5]
    assert heartbeat.trouble is None
    count = len(beats)
    time.sleep(0.03)
    assert len(beats) == count, "closed is closed"


def test_storage_trouble_in_a_heartbeat_is_told_until_it_is_over() -> None:
    errors: list[Exception] = [StorageUnavailable("503")]

    def beat(_counter: int) -> None:
        if errors:
            raise errors.pop()

    heartbeat = Heartbeat(beat, interval_seconds=HEARTBEAT_SECONDS)
    heartbeat.beat_now()
    assert heartbeat.trouble == "503"
    heartbeat.beat_now()
    assert heartbeat.trouble is None


def test_names_in_a_home_are_made_and_taken_apart() -> None:
    assert log_key(7) == "log/00000007.json"
    assert log_number(log_key(12345678)) == 12345678
    assert [log_number(key) for key in ("log/7.json", "log/00000007.json.tmp", "log/00000007.json/body")] == [None] * 3
    assert [checkpoint_folder(500, attempt) for attempt in (1, 2, 10)] == [
        "checkpoint-500",
        "checkpoint-500-a2",
        "checkpoint-500-a10",
    ]
    for step, attempt in ((0, 1), (5, 2), (500, 13)):
        assert checkpoint_name(checkpoint_folder(step, attempt)) == (step, attempt)


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint-6.tmp",
        "checkpoint-",
        "checkpoint-5-a1",
        "checkpoint-05",
        "checkpoint-5-a02",
        "x-checkpoint-5",
        "checkpoint-5-a",
        "checkpoint-²",
    ],
)
def test_a_folder_that_we_would_not_name_so_is_nobodys_checkpoint(name: str) -> None:
    assert checkpoint_name(name) is None


def test_a_thousand_steps_are_a_segment() -> None:
    assert [metrics_segment(step) for step in (1, 1000, 1001, 2000, 2001)] == [1, 1, 2, 2, 3]
    assert metrics_key(3, 2) == "metrics/0003-00002.jsonl"
