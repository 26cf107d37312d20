"""Several requests under way at a time: from far away each takes a round trip, however little it asks for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

from dreambooth_resume.storage.base import Storage

Item = TypeVar("Item")
Answer = TypeVar("Answer")
One = TypeVar("One")
Other = TypeVar("Other")


def side_by_side(
    storage: Storage, ask: Callable[[Item], Answer], items: Iterable[Item]
) -> Generator[Answer, None, None]:
    """`ask(item)` for each of `items`, in their order, whatever order the answers come in.

    At most `storage.requests_at_once` are under way. `items` is taken from on the caller's thread, no further ahead
    than that; where it is 1, `ask` runs there too. Of several troubles that of the first item is raised. After it, and
    when the caller takes no more, nothing further is asked, and what is under way is waited for.
    """
    if storage.requests_at_once == 1:
        yield from map(ask, items)
        return
    pool = ThreadPoolExecutor(storage.requests_at_once, thread_name_prefix="dbr-request")
    under_way: deque[Future[Answer]] = deque()
    iterator = iter(items)
    try:
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                break
            except Exception:
                for earlier in under_way:
                    earlier.result()
                raise
            under_way.append(pool.submit(ask, item))
            while under_way and (under_way[0].done() or len(under_way) == storage.requests_at_once):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def both(storage: Storage, one: Callable[[], One], other: Callable[[], Other]) -> tuple[One, Other]:
    """The answers of two requests that don't need each other; of two troubles, that of `one` is raised."""
    asks: list[Callable[[], object]] = [one, other]
    first, second = side_by_side(storage, lambda ask: ask(), asks)
    return cast("One", first), cast("Other", second)
