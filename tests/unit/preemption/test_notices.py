"""Signals, requests, and the one question that the loop asks about all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_resume.errors import Interrupted, StoppedOnPurpose, StorageUnavailable
from dreambooth_resume.preemption.requests import RequestSource
from dreambooth_resume.preemption.signals import COME_BACK, EXIT_CODES, ON_PURPOSE, SignalSource
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.runs.control import open_requests, post_request
from dreambooth_resume.runs.notice import Notice
from tests.fakes.memory_storage import MemoryStorage

pytestmark = pytest.mark.quick


@pytest.fixture
def signals() -> Iterator[SignalSource]:
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    source = SignalSource()
    source.install()
    try:
        yield source
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_hangup_that_nohup_ignores_stays_ignored(signals: SignalSource) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.install()
    signal.raise_signal(signal.SIGHUP)
    assert signals.notice() is None


def test_no_signal_is_no_notice(signals: SignalSource) -> None:
    assert signals.notice() is None
    assert not Watcher([signals]).should_stop()


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        (signal.SIGTERM, COME_BACK),
        (signal.SIGHUP, COME_BACK),
        (signal.SIGUSR1, COME_BACK),
        (signal.SIGUSR2, COME_BACK),
        (signal.SIGINT, ON_PURPOSE),
    ],
)
def test_each_signal_has_its_exit_code(signals: SignalSource, number: signal.Signals, exit_code: int) -> None:
    signal.raise_signal(number)
    assert signals.notice() == Notice(source=number.name, exit_code=exit_code, insistence=1)


def test_the_first_signal_names_the_reason_and_each_further_one_insists(signals: SignalSource) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
    assert signals.notice() == Notice(source="SIGTERM", exit_code=COME_BACK, insistence=3)


def test_a_handler_that_interrupts_a_held_lock_only_sets_a_value(signals: SignalSource) -> None:
    lock = threading.Lock()
    with lock:
        signal.raise_signal(signal.SIGTERM)
    assert signals.notice() is not None


def test_a_real_signal_reaches_a_real_process() -> None:
    program = (
        "import time; from dreambooth_resume.preemption.signals import SignalSource\n"
        "source = SignalSource(); source.install(); print('ready', flush=True)\n"
        "for _ in range(2000):\n"
        "    if (notice := source.notice()) and notice.insistence == 2: break\n"
        "    time.sleep(0.005)\n"
        "print(notice.source, notice.exit_code, flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGINT)
        answer = process.communicate(timeout=30)[0].split()
    finally:
        process.kill()
        process.wait()
    assert answer in (["SIGUSR1", "75"], ["SIGINT", "76"]), "two signals at once come in either order"
    assert process.returncode == 0


class Says:
    def __init__(self, notice: Notice | None) -> None:
        self._notice = notice

    def notice(self) -> Notice | None:
        return self._notice


def test_the_most_insistent_notice_wins_and_the_first_among_equals() -> None:
    calm, other = Notice(source="calm", exit_code=75), Notice(source="other", exit_code=76)
    urgent = Notice(source="urgent", exit_code=75, insistence=2)
    assert Watcher([]).notice() is None
    assert Watcher([Says(None), Says(calm), Says(other)]).notice() == calm
    assert Watcher([Says(calm), Says(urgent), Says(other)]).notice() == urgent


def test_the_nearest_end_of_several_notices_counts() -> None:
    cloud = Notice(source="cloud", exit_code=75, deadline_monotonic_s=120.0)
    limit = Notice(source="limit", exit_code=75, deadline_monotonic_s=60.0)
    term = Notice(source="SIGTERM", exit_code=75, insistence=2)
    assert Watcher([Says(cloud), Says(limit)]).notice() == replace(cloud, deadline_monotonic_s=60.0)
    assert Watcher([Says(cloud), Says(term)]).notice() == replace(term, deadline_monotonic_s=120.0)


@pytest.mark.parametrize(("left_seconds", "stops"), [(3000.0, False), (120.0, True), (-5.0, True)])
def test_work_that_saves_nothing_goes_on_while_the_end_is_far(left_seconds: float, stops: bool) -> None:
    notice = Notice(source="maintenance", exit_code=75, deadline_monotonic_s=1000.0 + left_seconds)
    watcher = Watcher([Says(notice)], monotonic=lambda: 1000.0)
    assert watcher.notice() == notice
    assert watcher.should_stop() is stops
    if stops:
        with pytest.raises(Interrupted):
            watcher.leave_if_asked("reading")
    else:
        watcher.leave_if_asked("reading")


def test_advice_is_no_notice_and_stops_nothing() -> None:
    advice = Notice(source="rebalance", exit_code=75, is_advice=True)
    watcher = Watcher([Says(advice)])
    assert (watcher.notice(), watcher.should_stop(), watcher.advice()) == (None, False, advice)
    watcher.leave_if_asked("reading")
    # An attempt asks its sources behind those of the whole process.
    assert Watcher([Says(None), watcher]).advice() == advice


@pytest.mark.parametrize(("exit_code", "error"), [(75, Interrupted), (76, StoppedOnPurpose)])
def test_work_that_saves_nothing_is_left_with_the_notices_exit_code(exit_code: int, error: type[Exception]) -> None:
    Watcher([Says(None)]).leave_if_asked("reading")
    with pytest.raises(error, match="while reading"):
        Watcher([Says(Notice(source="SIGTERM", exit_code=exit_code))]).leave_if_asked("reading")


# control/


def test_a_request_to_stop_is_a_notice_once_it_was_read() -> None:
    home, now = MemoryStorage(), [0.0]
    source = RequestSource(home, monotonic=lambda: now[0])
    post_request(home, "stop")
    assert source.notice() is None
    source.look()
    notice = source.notice()
    assert notice is not None
    assert notice.exit_code == ON_PURPOSE
    assert Watcher([source]).should_stop()


def test_control_is_read_at_most_every_ten_seconds() -> None:
    home, now = MemoryStorage(), [0.0]
    source = RequestSource(home, monotonic=lambda: now[0])
    for second in range(31):
        now[0] = float(second)
        source.look()
    assert home.count("list") == 4


def test_a_request_is_carried_out_once_and_taken_away() -> None:
    home = MemoryStorage()
    source = RequestSource(home, monotonic=lambda: 0.0)
    request = post_request(home, "save")
    source.look()
    assert source.open("save") == [request]
    assert source.open("stop") == []
    source.done([request])
    assert source.open("save") == []
    assert source.answered == (request.nonce,)
    assert open_requests(home) == []


def test_a_request_that_could_not_be_taken_away_is_not_carried_out_again_and_goes_later() -> None:
    """The training thread must not end, nor end otherwise, because of it."""
    home, now = MemoryStorage(), [0.0]
    source = RequestSource(home, monotonic=lambda: now[0])
    request = post_request(home, "save")
    source.look()

    def refuse(call: str, _key: str) -> None:
        if call == "delete":
            raise StorageUnavailable("503")

    home.before = refuse
    source.done([request])
    assert [found for _, found in open_requests(home)] == [request]
    now[0] = 100.0
    with pytest.raises(StorageUnavailable):
        source.look()
    assert source.open("save") == []
    home.before, now[0] = None, 200.0
    source.look()
    assert source.open("save") == []
    assert open_requests(home) == []
