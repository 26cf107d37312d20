"""What is asked of a place before it is believed, and how a home is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.errors import AccessDenied, BadInput, KeyNotFound, PatienceSpent, StorageUnavailable
from dreambooth_resume.storage.base import StoredObject
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.patience import PATIENCE_SECONDS, patiently
from dreambooth_resume.storage.probe import probe
from dreambooth_resume.storage.urls import open_storage
from tests.fakes.memory_storage import MemoryStorage

pytestmark = pytest.mark.quick


class LetsEverybodyIn(MemoryStorage):
    def put_if_absent(self, key: str, body: bytes) -> bool:
        super().write(key, [body])
        return True


class SaysNoAndOverwrites(MemoryStorage):
    def put_if_absent(self, key: str, body: bytes) -> bool:
        was_there = key in self.objects
        super().write(key, [body])
        return not was_there


class ListsLate(MemoryStorage):
    def list(self, prefix: str = "") -> list[StoredObject]:
        return []


@pytest.mark.parametrize("storage", [LetsEverybodyIn(), SaysNoAndOverwrites()], ids=lambda one: type(one).__name__)
def test_a_store_that_lets_two_writers_in_is_refused_unless_accepted(storage: MemoryStorage) -> None:
    with pytest.raises(BadInput) as refused:
        probe(storage, allow_unfenced=False)
    assert "--unfenced" in (refused.value.fix or "")
    assert "UNFENCED" in probe(storage, allow_unfenced=True)
    assert storage.objects == {}


def test_a_store_that_does_not_list_what_it_holds_is_refused() -> None:
    with pytest.raises(BadInput):
        probe(ListsLate(), allow_unfenced=True)


@pytest.mark.parametrize("error", [AccessDenied("403"), StorageUnavailable("503")])
def test_what_the_store_answers_is_raised_by_the_probe(error: Exception) -> None:
    def answer(_call: str, _key: str) -> None:
        raise error

    with pytest.raises(type(error)):
        probe(MemoryStorage(before=answer), allow_unfenced=True)


def test_a_folder_is_a_home_and_an_unknown_scheme_is_not(tmp_path: Path) -> None:
    assert isinstance(open_storage(str(tmp_path)), LocalStorage)
    with pytest.raises(BadInput, match="gopher"):
        open_storage("gopher://bucket/run")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def test_storage_that_does_not_answer_is_asked_for_ten_minutes_with_growing_jittered_waits() -> None:
    clock, told = Clock(), list[str]()

    def ask() -> str:
        raise StorageUnavailable("503")

    with pytest.raises(StorageUnavailable):
        patiently(ask, tell=told.append, monotonic=lambda: clock.now, sleep=clock.sleep)
    assert PATIENCE_SECONDS / 2 < clock.now <= PATIENCE_SECONDS + 30
    assert len(set(clock.waits)) == len(clock.waits) == len(told)
    assert max(clock.waits) <= 45.0


def test_an_answer_that_comes_late_is_returned() -> None:
    clock, answers = Clock(), iter([StorageUnavailable("503"), StorageUnavailable("time-out"), "here"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(ask, tell=lambda _: None, monotonic=lambda: clock.now, sleep=clock.sleep) == "here"
    assert len(clock.waits) == 2


@pytest.mark.parametrize("error", [AccessDenied("403"), KeyNotFound("404")])
def test_no_access_and_not_found_are_answers_and_not_asked_again(error: Exception) -> None:
    clock = Clock()

    def ask() -> str:
        raise error

    with pytest.raises(type(error)):
        patiently(ask, tell=lambda _: None, monotonic=lambda: clock.now, sleep=clock.sleep)
    assert clock.waits == []


def test_a_notice_ends_the_asking() -> None:
    def ask() -> str:
        raise StorageUnavailable("503")

    with pytest.raises(StorageUnavailable):
        patiently(ask, tell=lambda _: None, should_stop=lambda: True, sleep=lambda _: pytest.fail("slept"))


def test_patience_that_is_spent_within_another_is_not_begun_again() -> None:
    """A start asks for a checkpoint patiently within its adopt: asked anew, the whole would adopt a second time."""
    clock, adopts = Clock(), list[float]()

    def ask() -> str:
        raise StorageUnavailable("503")

    def adopt_and_load() -> str:
        adopts.append(clock.now)
        return patiently(ask, tell=lambda _: None, should_stop=lambda: True)

    with pytest.raises(PatienceSpent, match="503"):
        patiently(adopt_and_load, tell=lambda _: None, monotonic=lambda: clock.now, sleep=clock.sleep)
    assert len(adopts) == 1
