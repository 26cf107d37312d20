"""The watcher's thread, the file, the deadline, and finding out which cloud this is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.preemption.aws import AwsSource
from dreambooth_resume.preemption.azure import AzureSource
from dreambooth_resume.preemption.deadline import DeadlineSource
from dreambooth_resume.preemption.gcp import GcpSource
from dreambooth_resume.preemption.metadata import MetadataTrouble
from dreambooth_resume.preemption.notice_file import NoticeFile
from dreambooth_resume.preemption.poller import Poller
from dreambooth_resume.preemption.sources import AutoSource, CloudSource, polled_sources
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.runs.notice import Lead, Notice
from tests.fakes.metadata_server import running_metadata

pytestmark = pytest.mark.quick

GOES = Notice(source="it goes", exit_code=75, deadline_monotonic_s=50.0)
LATER = Notice(source="later", exit_code=75, deadline_monotonic_s=90.0)
ADVICE = Notice(source="rebalance", exit_code=75, is_advice=True)


class Scripted:
    """A source that says one thing after the other, the last for ever."""

    def __init__(self, *said: Notice | Exception | None, name: str = "it") -> None:
        self.name = name
        self.interval_seconds = 2.0
        self._said = list(said)

    def look(self) -> Notice | None:
        said = self._said.pop(0) if len(self._said) > 1 else self._said[0]
        if isinstance(said, Exception):
            raise said
        return said


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_was_said_last_is_the_notice_and_a_withdrawal_is_told() -> None:
    told, source = list[str](), Scripted(None, GOES, GOES, None)
    poller = Poller(tell=told.append)
    seen = []
    for _ in range(4):
        poller.look(source)
        seen.append(poller.notice())
    assert seen == [None, GOES, GOES, None]
    assert told == ["it goes: withdrawn."]


def test_the_nearest_end_counts_and_advice_comes_last() -> None:
    sources = [Scripted(LATER, name="a"), Scripted(ADVICE, name="b"), Scripted(GOES, name="c")]
    poller = Poller(tell=lambda _: None)
    seen = []
    for source in (sources[1], sources[0], sources[2]):
        poller.look(source)
        seen.append(poller.notice())
    assert seen == [ADVICE, LATER, GOES]


def test_trouble_is_told_once_asked_less_often_and_takes_no_notice_back() -> None:
    told, trouble = list[str](), MetadataTrouble("no route")
    source = Scripted(GOES, *[trouble] * 8, GOES)
    poller = Poller(tell=told.append)
    waits = [poller.look(source) for _ in range(9)]
    assert poller.notice() == GOES
    assert waits[0] <= 2.0 * 1.2
    assert 24.0 <= waits[-1] <= 36.0
    assert len(told) == 1
    assert "no route" in told[0]
    poller.look(source)
    assert told[1:] == ["Notices of it are read again."]


def test_the_thread_asks_and_ends_when_closed() -> None:
    poller, source = Poller(tell=lambda _: None), Scripted(None, GOES)
    source.interval_seconds = 0.01
    poller.start([source])
    until(lambda: poller.notice() == GOES)
    poller.close(timeout_seconds=30.0)
    assert "dbr-notices" not in {thread.name for thread in threading.enumerate()}


def test_a_bug_in_a_source_is_told_and_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    told = list[str]()
    poller = Poller(tell=told.append)
    poller.start([Scripted(ZeroDivisionError("bug"))])
    until(lambda: bool(told))
    assert "bug in dbr" in told[0]
    assert poller.notice() is None
    assert "ZeroDivisionError" in caplog.text


# --notice-file


def test_the_file_is_a_notice_while_it_is_there(tmp_path: Path) -> None:
    path, source = tmp_path / "notice", NoticeFile(tmp_path / "notice", monotonic=lambda: 100.0)
    assert source.look() is None
    path.touch()
    assert source.look() is None, "it may be about to be written"
    assert source.look() == Notice(source=f"the notice file {path}", exit_code=75)
    path.unlink()
    assert source.look() is None


@pytest.mark.parametrize(
    ("text", "left_seconds"),
    [
        ("seconds: 25", 25.0),
        ("end_time: 2026-11-21T08:05:00Z", 300.0),
        ("end_time: '2026-11-21T08:05:00+00:00'", 300.0),
        ('{"end_time": "2026-11-21T08:05:00"}', 300.0),
        ("end_time: 2020-01-01T00:00:00Z", 0.0),
        ("seconds: yes", None),
        ("end_time: soon", None),
        (": : :", None),
        ("gone", None),
    ],
)
def test_the_file_may_say_when(text: str, left_seconds: float | None, tmp_path: Path) -> None:
    path, clock = tmp_path / "notice.yml", [100.0]
    path.write_text(text)
    source = NoticeFile(path, monotonic=lambda: clock[0], now=lambda: datetime(2026, 11, 21, 8, tzinfo=UTC))
    first = source.look()
    assert first is not None
    assert first.deadline_monotonic_s == (None if left_seconds is None else 100.0 + left_seconds)
    clock[0] += 7.0
    assert source.look() == first


# --deadline


@pytest.mark.parametrize(("limit_seconds", "shown_at"), [(3600.0, 3480.0), (300.0, 270.0)])
def test_a_deadline_is_a_notice_shortly_before_its_end(limit_seconds: float, shown_at: float) -> None:
    clock = [0.0]
    source = DeadlineSource(limit_seconds, started_monotonic_s=10.0, monotonic=lambda: clock[0])
    clock[0] = 10.0 + shown_at - 0.1
    assert source.notice() is None
    clock[0] = 10.0 + shown_at
    notice = source.notice()
    assert notice is not None
    assert notice.deadline_monotonic_s == 10.0 + limit_seconds
    assert "minutes" in notice.source


# --spot auto


class Clock:
    """A monotonic clock that stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_auto_finds_the_cloud_that_answers(cloud: str) -> None:
    told = list[str]()
    with running_metadata(clouds=frozenset({cloud}), preempted=True, lifecycle="Terminated") as fake:
        clouds: list[CloudSource] = [
            AwsSource(base_url=fake.url),
            GcpSource(base_url=fake.url),
            AzureSource(base_url=fake.url),
        ]
        source = AutoSource(tell=told.append, clouds=lambda: clouds)
        notice = source.look()
        assert (notice is None) == (cloud == "azure")
        source.look()
    assert told == [f"Watching for notices of {cloud}."]
    assert source.interval_seconds <= 5.0


def test_auto_off_a_cloud_says_so_once_and_asks_no_more_after_four_minutes() -> None:
    class Nobody(AwsSource):
        def is_here(self, *, timeout_seconds: float) -> bool:
            assert timeout_seconds < 1.0
            asked.append(clock.now)
            raise MetadataTrouble("no answer")

    told, asked, clock = list[str](), list[float](), Clock()
    source = AutoSource(tell=told.append, clouds=lambda: [Nobody()], monotonic=clock)
    for _ in range(10):
        assert source.look() is None
        assert source.look() is None
        clock.now += source.interval_seconds
    assert [now - asked[0] for now in asked] == [0.0, 15.0, 45.0, 105.0, 225.0]
    assert len(told) == 1
    assert "--spot" in told[0]
    assert source.interval_seconds > 3600


def test_auto_finds_a_cloud_whose_first_answer_was_lost() -> None:
    told, clock = list[str](), Clock()
    with running_metadata(clouds=frozenset({"aws"}), lifecycle="Terminated") as fake:
        fake.silent = True
        source = AutoSource(tell=told.append, clouds=lambda: [AwsSource(base_url=fake.url)], monotonic=clock)
        assert source.look() is None
        fake.silent = False
        clock.now += source.interval_seconds
        notice = source.look()
    assert notice is not None
    assert "Auto Scaling" in notice.source
    assert told[1:] == ["Watching for notices of aws."]
    assert source.interval_seconds == AwsSource.interval_seconds


def test_the_clouds_are_asked_side_by_side() -> None:
    """Three silent addresses one after the other would take three times as long."""
    meeting = threading.Barrier(3, timeout=30)

    class Meets(AwsSource):
        def is_here(self, *, timeout_seconds: float) -> bool:
            meeting.wait()
            return False

    assert AutoSource(tell=lambda _: None, clouds=lambda: [Meets(), Meets(), Meets()]).look() is None


def test_a_folder_is_no_notice_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a folder"):
        polled_sources(spot="none", notice_file=str(tmp_path), tell=print)


@pytest.mark.parametrize(("seconds", "words"), [(1.0, "of 1 s"), (90.0, "of 1.5 minutes"), (1500.0, "of 25 minutes")])
def test_a_deadline_is_said_in_units_that_fit(seconds: float, words: str) -> None:
    notice = DeadlineSource(seconds, started_monotonic_s=0.0, monotonic=lambda: seconds).notice()
    assert notice is not None
    assert notice.source.endswith(words)


def test_how_long_ahead_a_cloud_says_it_is_known_once_the_cloud_is() -> None:
    with running_metadata(clouds=frozenset({"gcp"})) as fake:
        source = AutoSource(tell=lambda _text: None, clouds=lambda: [GcpSource(base_url=fake.url, has_gpu=True)])
        poller = Poller(tell=lambda _text: None)
        poller.start([source, Scripted(None)])
        watcher = Watcher([poller])
        until(lambda: watcher.lead() is not None)
        poller.close(timeout_seconds=5.0)
    assert Watcher([Watcher([poller])]).lead() == Lead(source="gcp", seconds=30.0)


def test_off_a_cloud_nobody_says_how_long_ahead() -> None:
    poller = Poller(tell=lambda _text: None)
    told: list[str] = []
    poller.start([AutoSource(tell=told.append, clouds=lambda: [AwsSource(base_url="http://127.0.0.1:9")])])
    until(lambda: bool(told))
    poller.close(timeout_seconds=5.0)
    assert Watcher([poller]).lead() is None
