"""Several requests at a time: bounded, in the items' order, and no trouble is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dreambooth_resume.errors import AccessDenied, KeyNotFound, StorageUnavailable
from dreambooth_resume.storage.side_by_side import both, side_by_side
from tests.fakes.memory_storage import MemoryStorage

pytestmark = pytest.mark.quick

AT_ONCE = 3
PATIENCE_SECONDS = 30.0


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage(requests_at_once=AT_ONCE)


class Asked:
    """Remembers what was asked, how much of it at a time, and on which threads; `gates` hold answers back."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []
        self.threads: set[int] = set()
        self.most_under_way = 0
        self.gates: dict[int, threading.Event] = {}
        self.bad: dict[int, Exception] = {}
        self._lock = threading.Lock()

    def __call__(self, number: int) -> int:
        with self._lock:
            self.begun.append(number)
            self.threads.add(threading.get_ident())
            self.most_under_way = max(self.most_under_way, len(self.begun) - len(self.done))
        if number in self.gates:
            assert self.gates[number].wait(PATIENCE_SECONDS), f"nobody opened the gate of {number}"
        with self._lock:
            self.done.append(number)
        if number in self.bad:
            raise self.bad[number]
        return number * number


def test_answers_come_in_the_items_order_whatever_the_order_they_arrive_in(storage: MemoryStorage) -> None:
    asked = Asked()
    asked.gates[0] = threading.Event()

    def ask(number: int) -> int:
        answer = asked(number)
        if number == 2:
            asked.gates[0].set()  # the first answer is the last of three
        return answer

    assert list(side_by_side(storage, ask, range(10))) == [number * number for number in range(10)]
    assert asked.done.index(2) < asked.done.index(0)


def test_as_many_are_under_way_as_the_storage_says_and_no_more(storage: MemoryStorage) -> None:
    asked, together = Asked(), threading.Barrier(AT_ONCE)

    def ask(number: int) -> int:
        if number < AT_ONCE:
            together.wait(PATIENCE_SECONDS)
        return asked(number)

    assert len(list(side_by_side(storage, ask, range(50)))) == 50
    assert asked.most_under_way <= AT_ONCE
    assert threading.get_ident() not in asked.threads
    assert len(asked.threads) <= AT_ONCE


def test_items_are_taken_on_the_callers_thread_and_not_far_ahead(storage: MemoryStorage) -> None:
    asked, taken = Asked(), 0
    asked.gates[0] = threading.Event()

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(10):
            assert threading.get_ident() == here
            taken += 1
            if taken == AT_ONCE:
                asked.gates[0].set()
            yield number

    here = threading.get_ident()
    answers = side_by_side(storage, asked, items())
    next(answers)
    assert taken == AT_ONCE
    assert len(list(answers)) == 9


def test_where_one_is_asked_at_a_time_it_is_asked_on_the_callers_thread() -> None:
    asked = Asked()
    answers = side_by_side(MemoryStorage(), asked, range(5))
    assert next(answers) == 0
    assert asked.begun == [0]
    assert list(answers) == [1, 4, 9, 16]
    assert asked.threads == {threading.get_ident()}


@pytest.mark.parametrize("at_once", [1, AT_ONCE, 20])
def test_of_several_troubles_that_of_the_first_item_is_raised(at_once: int, storage: MemoryStorage) -> None:
    storage.requests_at_once = at_once
    asked = Asked()
    asked.bad = {2: KeyNotFound("2"), 3: StorageUnavailable("3")}
    if at_once > 1:
        asked.gates[2] = threading.Event()

    def ask(number: int) -> int:
        try:
            return asked(number)
        finally:
            if number == 3:
                asked.gates[2].set()  # the second trouble comes first

    answers = side_by_side(storage, ask, range(100))
    assert [next(answers), next(answers)] == [0, 1]
    with pytest.raises(KeyNotFound):
        next(answers)
    assert len(asked.begun) <= 2 + at_once, "nothing more is asked"
    assert sorted(asked.done) == sorted(asked.begun), "and what was under way is waited for"


@pytest.mark.parametrize("at_once", [1, AT_ONCE])
def test_trouble_of_an_item_comes_before_that_of_making_a_later_one(at_once: int, storage: MemoryStorage) -> None:
    storage.requests_at_once = at_once
    asked = Asked()
    asked.bad = {1: StorageUnavailable("1")}

    def items() -> Iterator[int]:
        yield from (0, 1)
        raise AccessDenied("2")

    with pytest.raises(StorageUnavailable):
        list(side_by_side(storage, asked, items()))


def test_who_takes_no_more_leaves_nothing_behind(storage: MemoryStorage) -> None:
    asked = Asked()
    answers = side_by_side(storage, asked, range(100))
    assert next(answers) == 0
    answers.close()
    assert len(asked.begun) <= 1 + AT_ONCE
    assert sorted(asked.done) == sorted(asked.begun)


def test_two_that_need_not_each_other(storage: MemoryStorage) -> None:
    together = threading.Barrier(2)

    def one() -> str:
        together.wait(PATIENCE_SECONDS)
        return "one"

    def other() -> int:
        together.wait(PATIENCE_SECONDS)
        return 2

    assert both(storage, one, other) == ("one", 2)
    assert both(MemoryStorage(), lambda: "one", lambda: 2) == ("one", 2)
