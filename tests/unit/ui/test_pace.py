"""How often the page reads: a bucket is asked rarely, as every request costs money, and never for what is known."""

from __future__ import annotations

from collections import Counter

import pytest

from dreambooth_resume.errors import BadInput, StorageUnavailable
from dreambooth_resume.storage.base import StoredObject
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.ui.compared import Compared
from dreambooth_resume.ui.homes import BUCKET_PACE, Homes
from dreambooth_resume.ui.open_run import OpenRun
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import record_run

PLACE = "s3://bucket/runs"


class Counted(MemoryStorage):
    """A home, or the place of homes, in a bucket that counts requests."""

    def __init__(self, name: str, requests: Counter[str], below: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._name, self._requests, self._below = name, requests, below

    def describe(self) -> str:
        return f"{PLACE}/{self._name}"

    def read(self, key: str) -> bytes:
        self._requests[self._name] += 1
        return super().read(key)

    def list(self, prefix: str = "") -> list[StoredObject]:
        self._requests[self._name] += 1
        return super().list(prefix)

    def folders(self, prefix: str = "") -> list[str]:
        self._requests[self._name] += 1
        return [f"{name}/" for name in self._below] or super().folders(prefix)


class Bucket:
    """A place with a run that trains and one that is finished, and a clock."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.now = 1000.0
        self.dog, self.done = Counted("dog", self.requests), Counted("done", self.requests)
        self.place = Counted("", self.requests, ("dog/", "done/"))
        for storage in (self.dog, self.done):
            record_run(storage)
            begin(storage).commit(1)
        begin(self.done).train_to_the_end()
        self.homes = Homes([PLACE], opened=self.opened, monotonic=lambda: self.now)

    def opened(self, address: str, _s3: S3Settings | None) -> MemoryStorage:
        return {PLACE: self.place, f"{PLACE}/dog": self.dog, f"{PLACE}/done": self.done}[address]

    def look(self, after_seconds: float) -> Counter[str]:
        """What one round of the page's thread asks for, so many seconds after the last one."""
        self.now += after_seconds
        self.requests.clear()
        self.homes._look(only_due=True)
        return self.requests


@pytest.fixture
def bucket() -> Bucket:
    made = Bucket()
    made.homes.look(details=True)
    return made


def test_a_bucket_is_read_at_its_pace_and_a_finished_run_rarely(bucket: Bucket) -> None:
    assert bucket.look(2.0) == {}
    again = bucket.look(BUCKET_PACE.place)
    assert again["dog"] > 0
    assert again["done"] == 0
    assert [row.state for row in bucket.homes.snapshot().rows] == ["resuming", "finished"]
    assert bucket.look(BUCKET_PACE.finished)["done"] > 0


def test_who_asks_for_a_run_that_is_not_there_makes_nobody_read_more(bucket: Bucket) -> None:
    bucket.requests.clear()
    for _ in range(20):
        with pytest.raises(BadInput, match="no such run"):
            bucket.homes.found(f"{PLACE}/cat")
    assert bucket.requests == {}


def test_after_a_command_about_a_run_it_is_looked_at_at_once(bucket: Bucket) -> None:
    bucket.homes.forget(f"{PLACE}/done")
    assert bucket.look(0.0)["done"] > 0
    assert bucket.look(0.0) == {}


def test_runs_of_a_place_that_does_not_answer_are_still_there_and_can_be_stopped(bucket: Bucket) -> None:
    def refuse(_call: str, _key: str) -> None:
        raise StorageUnavailable("503: slow down")

    before = bucket.homes.snapshot().rows
    for storage in (bucket.place, bucket.dog, bucket.done):
        storage.before = refuse
    requests = bucket.look(BUCKET_PACE.no_job)
    assert requests["dog"] == 0  # nothing is asked of a place that doesn't answer but whether it does again
    assert bucket.homes.snapshot().rows == before
    assert "503" in bucket.homes.snapshot().problems[0]
    assert bucket.homes.found(f"{PLACE}/dog") == f"{PLACE}/dog"
    for storage in (bucket.place, bucket.dog, bucket.done):
        storage.before = None
    begin(bucket.dog).commit(2)
    bucket.look(BUCKET_PACE.place)
    assert bucket.homes.snapshot().problems == ()
    assert [row.durable_step for row in bucket.homes.snapshot().rows if row.name == "dog"] == [2]


def test_ages_are_of_the_moment_when_the_run_was_read(bucket: Bucket) -> None:
    before = {row.name: row.durable_at for row in bucket.homes.snapshot().rows}
    bucket.look(0.5)
    assert {row.name: row.durable_at for row in bucket.homes.snapshot().rows} == before


def test_a_bucket_that_does_not_answer_is_not_asked_by_every_tick() -> None:
    requests: Counter[str] = Counter()
    clock = [1000.0]
    storage = Counted("dog", requests)
    record_run(storage)
    run = OpenRun(f"{PLACE}/dog", storage, monotonic=lambda: clock[0])

    def refuse(_call: str, _key: str) -> None:
        raise StorageUnavailable("503: slow down")

    storage.before = refuse
    for _ in range(5):
        with pytest.raises(StorageUnavailable, match="503"):
            run.view()
    assert 0 < requests["dog"] < 5
    storage.before = None
    clock[0] += BUCKET_PACE.place
    assert run.view() is not None


def test_a_comparison_reads_at_the_same_pace() -> None:
    requests: Counter[str] = Counter()
    clock = [1000.0]
    storage = Counted("dog", requests)
    record_run(storage)
    begin(storage).commit(1)
    run, compared = OpenRun(f"{PLACE}/dog", storage), Compared(monotonic=lambda: clock[0])
    assert compared.facts(run) is not None
    requests.clear()
    for _ in range(2):
        clock[0] += 5.0
        assert compared.facts(run) is not None
    assert requests == {}
    run.forget_job()  # a command of the page
    assert compared.facts(run) is not None
    assert requests["dog"] > 0
    requests.clear()
    clock[0] += BUCKET_PACE.place
    assert compared.facts(run) is not None
    assert requests["dog"] > 0


def test_the_page_of_a_run_in_a_bucket_reads_at_the_same_pace() -> None:
    requests: Counter[str] = Counter()
    clock = [1000.0]
    storage = Counted("dog", requests)
    record_run(storage)
    begin(storage).commit(1)
    run = OpenRun(f"{PLACE}/dog", storage, monotonic=lambda: clock[0])
    run.view()
    requests.clear()
    for _ in range(5):
        clock[0] += 2.0
        run.view()
    assert requests == {}
    run.forget_job()
    run.view()
    assert requests["dog"] > 0
    requests.clear()
    clock[0] += BUCKET_PACE.place
    run.view()
    assert requests["dog"] > 0
