"""A network and a service that fail: what may be asked again is, what may not is not, and nothing looks like absent."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dreambooth_resume.errors import BadInput, KeyNotFound, OutcomeUnknown, StorageUnavailable
from dreambooth_resume.runs.log import LogWriter, make_entry, put_entry, read_log
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.storage.s3_client import Clock
from tests.fakes.fault_proxy import FaultProxy, What
from tests.fakes.logs import NOTHING_YET, adopt, commit, put_log
from tests.fakes.s3_server import S3Server

pytestmark = pytest.mark.quick

BODY = bytes(range(256)) * 2000
KEY = "checkpoint-5/weights"
SAFE: dict[str, Callable[[S3Storage], object]] = {
    "read": lambda s3: s3.read(KEY),
    "write": lambda s3: s3.write(KEY, [BODY]),
    "digest": lambda s3: s3.digest(KEY),
    "holds": lambda s3: s3.holds(KEY, [BODY], sha256=hashlib.sha256(BODY).hexdigest()),
    "list": lambda s3: s3.list("checkpoint-"),
    "delete": lambda s3: s3.delete(KEY),
}
PASSING: dict[str, tuple[What, dict[str, object]]] = {
    "reset": (What.RESET, {}),
    "answer lost": (What.DROP_ANSWER, {}),
    "no answer": (What.BLACKHOLE, {"seconds": 1.0}),
    "503": (What.ANSWER, {"status": 503, "code": "SlowDown"}),
    "500": (What.ANSWER, {"status": 500, "code": "InternalError"}),
    "429": (What.ANSWER, {"status": 429, "code": "TooManyRequests"}),
    "time-out": (What.ANSWER, {"status": 400, "code": "RequestTimeout"}),
    "upload cut": (What.CUT_UPLOAD, {}),
    "download cut": (What.CUT_DOWNLOAD, {}),
}


@pytest.mark.parametrize("trouble", PASSING)
@pytest.mark.parametrize("call", SAFE)
def test_trouble_that_passes_is_not_noticed(s3: S3Storage, proxy: FaultProxy, call: str, trouble: str) -> None:
    s3.write(KEY, [BODY])
    expected = SAFE[call](s3)
    s3.write(KEY, [BODY])
    what, how = PASSING[trouble]
    fault = proxy.add(what, **how)
    assert SAFE[call](s3) == expected
    assert fault.acted == 1
    assert [found.key for found in s3.list()] == ([] if call == "delete" else [KEY])


@pytest.mark.parametrize("call", SAFE)
@pytest.mark.parametrize("trouble", ["reset", "503", "no answer"])
def test_trouble_that_stays_is_storage_unavailable_in_bounded_time(
    proxy: FaultProxy, open_s3: Callable[..., S3Storage], call: str, trouble: str
) -> None:
    s3 = open_s3(proxy, read_seconds=0.2, operation_seconds=0.4, slowest_bytes_per_second=1e9)
    what, how = PASSING[trouble]
    proxy.add(what, times=None, **how)
    started = time.monotonic()
    with pytest.raises(StorageUnavailable) as raised:
        SAFE[call](s3)
    assert not isinstance(raised.value, OutcomeUnknown)
    assert time.monotonic() - started < 4.0
    assert s3.describe() in str(raised.value)


def test_no_service_at_all_is_storage_unavailable(open_s3: Callable[..., S3Storage], s3_server: S3Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = FaultProxy(s3_server.port)
        proxy.url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        s3 = open_s3(proxy, operation_seconds=0.3)
        for call in SAFE.values():
            with pytest.raises(StorageUnavailable):
                call(s3)
        with pytest.raises(StorageUnavailable) as raised:
            s3.put_if_absent("log/00000001.json", b"x")
        # Nothing was sent, so the outcome is known.
        assert not isinstance(raised.value, OutcomeUnknown)


@pytest.mark.parametrize("trouble", ["reset", "503", "500", "no answer", "upload cut", "time-out"])
def test_a_conditional_put_is_sent_once_and_trouble_leaves_its_outcome_unknown(
    s3: S3Storage, proxy: FaultProxy, trouble: str
) -> None:
    what, how = PASSING[trouble]
    proxy.add(what, verb="PUT", **how)
    with pytest.raises(OutcomeUnknown):
        s3.put_if_absent("log/00000001.json", b"x")
    assert len(proxy.requests("PUT")) == 1
    assert s3.list() == []


def test_a_conditional_put_whose_answer_is_lost_is_not_taken_for_a_refusal(s3: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(What.DROP_ANSWER, verb="PUT")
    with pytest.raises(OutcomeUnknown):
        s3.put_if_absent("log/00000001.json", b"mine")
    assert len(proxy.requests("PUT")) == 1
    assert s3.read("log/00000001.json") == b"mine"


def test_a_conditional_put_may_land_late(s3: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(What.LAND_LATE, verb="PUT")
    with pytest.raises(OutcomeUnknown):
        s3.put_if_absent("log/00000001.json", b"mine")
    with pytest.raises(KeyNotFound):
        s3.read("log/00000001.json")
    assert proxy.land() == 1
    assert s3.put_if_absent("log/00000001.json", b"another") is False
    assert s3.read("log/00000001.json") == b"mine"


def test_a_conflict_with_another_write_is_an_unknown_outcome(s3: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(What.ANSWER, verb="PUT", status=409, code="ConditionalRequestConflict")
    with pytest.raises(OutcomeUnknown):
        s3.put_if_absent("log/00000001.json", b"x")
    assert len(proxy.requests("PUT")) == 1


def test_a_service_without_conditional_writes_is_refused(s3: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(What.ANSWER, verb="PUT", conditional=True, times=None, status=501, code="NotImplemented")
    with pytest.raises(BadInput, match="conditional"):
        s3.put_if_absent("log/00000001.json", b"x")
    s3.write("run.json", [b"x"])
    assert s3.read("run.json") == b"x"


@pytest.mark.parametrize("what", [What.DROP_ANSWER, What.RESET, What.LAND_LATE])
def test_an_entry_whose_answer_was_lost_is_known_again_by_its_nonce(
    s3: S3Storage, proxy: FaultProxy, what: What
) -> None:
    entry = make_entry(number=1, attempt=1, body=adopt(), state=NOTHING_YET)
    proxy.add(what, verb="PUT", key="*/log/*")
    try:
        stored = put_entry(s3, entry)
    except OutcomeUnknown:
        assert what is not What.DROP_ANSWER
        proxy.land()
        stored = put_entry(s3, entry)
    assert stored == entry
    assert read_log(s3).entries == (entry,)


def test_an_attempt_whose_answers_are_lost_goes_on_and_meets_only_itself(s3: S3Storage, proxy: FaultProxy) -> None:
    writer = LogWriter(s3, put_log(s3, adopt()), attempt=1)
    proxy.add(What.DROP_ANSWER, verb="PUT", key="*/log/*", every=2)
    for step in range(1, 6):
        writer.append(lambda _log, step=step: (commit(step), NOTHING_YET))
    assert read_log(s3) == writer.log
    assert len(writer.log.entries) == 6


def test_entries_that_a_listing_hides_are_found(s3: S3Storage, proxy: FaultProxy) -> None:
    log = put_log(s3, adopt(), commit(1), commit(2), commit(3))
    proxy.add(What.HIDE_NEWEST, verb="LIST", times=None, count=3)
    assert len(s3.list("log/")) == 1
    assert read_log(s3) == log


def test_a_download_goes_on_where_it_broke(s3: S3Storage, proxy: FaultProxy) -> None:
    body = bytes(range(256)) * 40_000
    s3.write(KEY, [body])
    proxy.add(What.CUT_DOWNLOAD, verb="GET", times=3)
    assert s3.read(KEY) == body
    ranges = [int(request.headers.get("Range", "bytes=0-")[6:-1]) for request in proxy.requests("GET")]
    assert ranges == sorted(set(ranges))
    assert len(ranges) == 4


def test_a_connection_that_never_brings_a_megabyte_brings_the_whole_in_the_end(
    s3: S3Storage, proxy: FaultProxy
) -> None:
    body = bytes(range(256)) * 3_600
    s3.write(KEY, [body])
    fault = proxy.add(What.CUT_DOWNLOAD, verb="GET", times=2)
    assert s3.read(KEY) == body
    assert fault.acted == 2
    ranges = [int(request.headers.get("Range", "bytes=0-")[6:-1]) for request in proxy.requests("GET")]
    assert ranges[-1] > 0, "it went on in the middle"


def test_a_key_that_changes_while_it_is_read_is_read_anew(s3: S3Storage, proxy: FaultProxy) -> None:
    old, new = b"a" * 6_000_000, b"b" * 6_000_000
    s3.write("status/0001.json", [old])
    proxy.add(What.CUT_DOWNLOAD, verb="GET")
    written = threading.Event()
    proxy.add(What.DELAY, verb="GET", gate=written)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(s3.read, "status/0001.json")
        while len(proxy.requests("GET")) < 2:
            time.sleep(0.005)
        s3.write("status/0001.json", [new])
        written.set()
        assert reading.result() == new


class Ticking:
    """`clock` goes on by `step` seconds each time it is looked at: as slow as the test says, on any machine."""

    def __init__(self, step: float) -> None:
        self.looks = 0
        self.step = step
        self.clock = Clock(monotonic=self._look, sleep=lambda _seconds: None)

    def _look(self) -> float:
        self.looks += 1
        return self.looks * self.step


@pytest.mark.parametrize("act", [lambda s3: s3.write(KEY, [BODY]), lambda s3: s3.read(KEY)], ids=["write", "read"])
def test_slow_is_waited_for_as_long_as_the_body_may_take_and_not_for_ever(
    act: Callable[[S3Storage], object], s3_server: S3Server, home: str, s3: S3Storage
) -> None:
    """The operation takes 0.7 s, where it has 0.2 s and what the body needs: 1 s, or next to nothing."""
    s3.write(KEY, [BODY])

    def open_with(clock: Clock, slowest_bytes_per_second: float) -> S3Storage:
        settings = S3Settings(
            endpoint_url=s3_server.url, operation_seconds=0.2, slowest_bytes_per_second=slowest_bytes_per_second
        )
        return S3Storage(home, settings, clock=clock)

    counting = Ticking(0.0)
    act(open_with(counting.clock, len(BODY)))
    act(open_with(Ticking(0.7 / counting.looks).clock, len(BODY)))
    with pytest.raises(StorageUnavailable, match="too slow for a body of this size"):
        act(open_with(Ticking(0.7 / counting.looks).clock, len(BODY) * 1000))


def test_what_was_damaged_on_the_way_is_told_by_the_digest(s3: S3Storage, proxy: FaultProxy) -> None:
    proxy.add(What.CORRUPT_UPLOAD, verb="PUT")
    s3.write(KEY, [BODY])
    stored = s3.digest(KEY)
    assert stored.size_bytes == len(BODY)
    assert stored.sha256 != hashlib.sha256(BODY).hexdigest()
    assert stored.sha256 == hashlib.sha256(s3.read(KEY)).hexdigest()
