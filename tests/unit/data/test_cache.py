"""Encoded once, kept in the home, checked when read, made again when damaged."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from dreambooth_resume.data.cache import Arrays, Cache, Entry
from dreambooth_resume.errors import ComeBack, RefusedToGoOn, StorageUnavailable
from tests.fakes.memory_storage import MemoryStorage


class KilledError(Exception):
    """Stands for the end of the process."""


class Encoder:
    """Makes arrays that depend on the number alone, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def entry(self, number: int) -> Entry:
        def encode() -> Arrays:
            self.encoded.append(number)
            return expected(number)

        return Entry(label=f"{number}.png", recipe={"kind": "test", "number": number}, encode=encode)

    def entries(self, count: int) -> list[Entry]:
        return [self.entry(number) for number in range(count)]


def expected(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {name: rng.standard_normal((4, 2, 2), dtype=np.float32) for name in ("mean", "logvar")}


def fill(cache: Cache, entries: list[Entry], should_stop: Callable[[], bool] = lambda: False) -> bool:
    return cache.fill(entries, should_stop=should_stop, on_progress=lambda done, total: None)


def assert_holds(cache: Cache, entries: list[Entry]) -> None:
    for number, entry in enumerate(entries):
        arrays = cache.arrays(entry)
        assert set(arrays) == {"mean", "logvar"}
        for name, array in expected(number).items():
            np.testing.assert_array_equal(arrays[name], array)


def test_a_second_start_encodes_nothing_and_gets_the_same_bits() -> None:
    storage = MemoryStorage()
    assert fill(Cache(storage), Encoder().entries(5))
    encoder, cache = Encoder(), Cache(storage)
    assert fill(cache, encoder.entries(5))
    assert encoder.encoded == []
    assert_holds(cache, encoder.entries(5))


def test_each_entry_is_put_once_and_never_written_over() -> None:
    storage, encoder = MemoryStorage(), Encoder()
    fill(Cache(storage), encoder.entries(5))
    fill(Cache(storage), encoder.entries(7))
    assert encoder.encoded == [0, 1, 2, 3, 4, 5, 6]
    assert storage.count("put_if_absent") == 7
    assert storage.count("write") == storage.count("delete") == 0


def test_kill_at_any_call_costs_at_most_one_entry() -> None:
    undisturbed = MemoryStorage()
    fill(Cache(undisturbed), Encoder().entries(4))
    for number in range(1, len(undisturbed.calls) + 1):
        storage, encoder = MemoryStorage(), Encoder()

        def kill(call: str, key: str, storage: MemoryStorage = storage, number: int = number) -> None:
            if len(storage.calls) == number:
                raise KilledError

        storage.before = kill
        with pytest.raises(KilledError):
            fill(Cache(storage), encoder.entries(4))
        storage.before = None
        fill(Cache(storage), encoder.entries(4))
        assert storage.objects == undisturbed.objects
        assert len(encoder.encoded) <= 5


def test_should_stop_is_heard_before_each_entry_and_keeps_what_was_done() -> None:
    storage, encoder, progress = MemoryStorage(), Encoder(), []
    done = Cache(storage).fill(
        encoder.entries(5),
        should_stop=lambda: len(encoder.encoded) == 2,
        on_progress=lambda made, total: progress.append((made, total)),
    )
    assert not done
    assert progress == [(0, 5), (1, 5), (2, 5)]
    assert fill(Cache(storage), encoder.entries(5))
    assert encoder.encoded == [0, 1, 2, 3, 4]


def test_should_stop_is_heard_while_everything_is_cached_too() -> None:
    storage = MemoryStorage()
    fill(Cache(storage), Encoder().entries(3))
    assert not fill(Cache(storage), Encoder().entries(3), should_stop=lambda: True)


def damage_each_byte(body: bytes) -> list[bytes]:
    """Every byte changed, every length cut, a byte too many, and another entry's body is left to another test."""
    flipped = [body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] for at in range(len(body))]
    return [*flipped, *(body[:size] for size in range(0, len(body), 5)), body + b"\0"]


def test_any_damage_is_noticed_and_the_entry_made_again() -> None:
    storage = MemoryStorage()
    fill(Cache(storage), Encoder().entries(1))
    ((key, whole),) = storage.objects.items()
    for damaged in damage_each_byte(whole):
        storage.objects[key] = damaged
        encoder, cache = Encoder(), Cache(storage)
        fill(cache, encoder.entries(1))
        # What reads as the same content is no damage: a changed space in the header, for one.
        assert encoder.encoded == [0] or _same_content(damaged)
        assert_holds(cache, encoder.entries(1))


def _same_content(body: bytes) -> bool:
    arrays = load(body)
    return set(arrays) == {"mean", "logvar"} and all(
        np.array_equal(arrays[name], array) for name, array in expected(0).items()
    )


def test_a_swapped_entry_is_made_again() -> None:
    storage = MemoryStorage()
    encoder, cache = Encoder(), Cache(storage)
    first, second = encoder.entries(2)
    fill(cache, [first, second])
    storage.objects[first.key] = storage.objects[second.key]
    again = Cache(storage)
    fill(again, [first, second])
    assert encoder.encoded == [0, 1, 0]
    assert_holds(again, [first, second])


def test_what_another_attempt_put_first_is_used() -> None:
    """Two machines encode the same entry to other bits; both go on from what the home holds."""
    storage = MemoryStorage()

    def slow() -> Arrays:
        fill(Cache(storage), Encoder().entries(1))
        return {"mean": np.zeros((4, 2, 2), np.float32), "logvar": np.zeros((4, 2, 2), np.float32)}

    entry = Entry(label="0.png", recipe={"kind": "test", "number": 0}, encode=slow)
    cache = Cache(storage)
    fill(cache, [entry])
    assert_holds(cache, [entry])


def test_a_failing_read_is_no_missing_entry() -> None:
    storage, encoder = MemoryStorage(), Encoder()
    fill(Cache(storage), encoder.entries(1))

    def unavailable(call: str, key: str) -> None:
        raise StorageUnavailable("503")

    storage.before = unavailable
    with pytest.raises(StorageUnavailable):
        fill(Cache(storage), encoder.entries(1))
    assert encoder.encoded == [0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_from_an_encoder_is_refused_and_not_kept(bad: float) -> None:
    storage = MemoryStorage()
    entry = Entry(label="dog.png", recipe={"a": 1}, encode=lambda: {"mean": np.array([0, bad], dtype=np.float32)})
    with pytest.raises(RefusedToGoOn, match=r"dog\.png: the encoder gives NaN"):
        fill(Cache(storage), [entry])
    assert not storage.objects


def test_a_store_that_does_not_give_back_what_was_written_is_refused() -> None:
    class Forgetful(MemoryStorage):
        def put_if_absent(self, key: str, body: bytes) -> bool:
            return super().put_if_absent(key, body[:-1])

    with pytest.raises(RefusedToGoOn, match="does not give back what was written"):
        fill(Cache(Forgetful()), Encoder().entries(1))


def test_beyond_the_memory_limit_entries_are_read_from_the_home_again() -> None:
    storage, encoder = MemoryStorage(), Encoder()
    entry_bytes = 2 * 4 * 2 * 2 * 4
    cache = Cache(storage, memory_limit_bytes=2 * entry_bytes)
    entries = encoder.entries(5)
    fill(cache, entries)
    storage.calls.clear()
    assert_holds(cache, entries)
    assert storage.count("read") == 5  # 3 and 4 were in memory, and gave way to 0, 1 and 2 before they were asked for
    storage.calls.clear()
    cache.arrays(entries[4])
    assert storage.calls == []


def test_an_entry_damaged_after_the_start_ends_in_come_back_and_not_in_an_encoder() -> None:
    storage, encoder = MemoryStorage(), Encoder()
    cache = Cache(storage, memory_limit_bytes=0)
    entries = encoder.entries(2)
    fill(cache, entries)
    storage.objects[entries[0].key] = b""
    with pytest.raises(ComeBack, match=r"0\.png: cache/.*Resume"):
        cache.arrays(entries[0])
    assert encoder.encoded == [0, 1]


def test_arrays_cannot_be_changed_by_who_uses_them() -> None:
    cache, entries = Cache(MemoryStorage()), Encoder().entries(1)
    fill(cache, entries)
    with pytest.raises(ValueError, match="read-only"):
        cache.arrays(entries[0])["mean"][:] = 0


def test_an_entrys_bytes_are_the_same_in_every_process() -> None:
    code = """
import hashlib, numpy as np
from dreambooth_resume.data.cache import Cache, Entry
from tests.fakes.memory_storage import MemoryStorage
storage = MemoryStorage()
arrays = {name: np.ones((2, 2), np.float32) for name in ("mean", "logvar")}
entry = Entry(label="a", recipe={"kind": "test", "b": 1, "a": 2}, encode=lambda: arrays)
Cache(storage).fill([entry], should_stop=lambda: False, on_progress=lambda done, total: None)
print(hashlib.sha256(storage.objects[entry.key]).hexdigest(), "torch" in __import__("sys").modules)
"""
    command, root = [sys.executable, "-c", code], Path(__file__).parents[3]
    outputs = {subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout for _ in range(3)}
    assert len(outputs) == 1
    assert outputs.pop().endswith(b" False\n")


AT_ONCE = 4


def test_what_an_encoder_made_is_put_while_it_makes_the_next() -> None:
    """The first entry's upload ends only once the third is encoded; and encoding stays one at a time, in order."""
    storage, encoder, third_is_made = MemoryStorage(requests_at_once=AT_ONCE), Encoder(), threading.Event()
    entries, threads = encoder.entries(10), set()

    def hold(call: str, key: str) -> None:
        if (call, key) == ("put_if_absent", entries[0].key):
            assert third_is_made.wait(30)

    def tell(number: int, entry: Entry) -> Entry:
        def encode() -> Arrays:
            threads.add(threading.get_ident())
            if number == 2:
                third_is_made.set()
            return entry.encode()

        return replace(entry, encode=encode)

    storage.before = hold
    cache = Cache(storage)
    assert fill(cache, [tell(number, entry) for number, entry in enumerate(entries)])
    assert encoder.encoded == list(range(10))
    assert threads == {threading.get_ident()}
    assert_holds(cache, entries)
    assert storage.count("put_if_absent") == 10


def test_side_by_side_a_second_start_gets_the_same_bits_and_the_same_bytes_lie_in_the_home() -> None:
    one_at_a_time, storage = MemoryStorage(), MemoryStorage(requests_at_once=AT_ONCE)
    fill(Cache(one_at_a_time), Encoder().entries(20))
    fill(Cache(storage), Encoder().entries(13))
    encoder, cache, progress = Encoder(), Cache(storage), []
    entries = encoder.entries(20)
    done = cache.fill(
        entries, should_stop=lambda: False, on_progress=lambda made, total: progress.append((made, total))
    )
    assert done
    assert progress == [(made, 20) for made in range(21)]
    assert encoder.encoded == list(range(13, 20))
    assert storage.objects == one_at_a_time.objects
    assert_holds(cache, entries)


def test_trouble_of_an_upload_is_not_lost_and_what_others_put_stays() -> None:
    storage, encoder = MemoryStorage(requests_at_once=AT_ONCE), Encoder()
    entries = encoder.entries(20)

    def refuse(call: str, key: str) -> None:
        if (call, key) == ("put_if_absent", entries[5].key):
            raise StorageUnavailable("503")

    storage.before = refuse
    with pytest.raises(StorageUnavailable, match="503"):
        fill(Cache(storage), entries)
    assert len(encoder.encoded) <= 6 + AT_ONCE, "nobody encodes on for long when nothing can be kept"
    assert set(storage.objects) >= {entry.key for entry in entries[:5]}
    assert entries[5].key not in storage.objects
    storage.before = None
    assert fill(Cache(storage), entries)
    assert len(encoder.encoded) <= 21 + AT_ONCE, "what was put is not made again"


def test_side_by_side_a_notice_is_heard_before_each_encoding_and_what_was_made_is_put() -> None:
    storage, encoder = MemoryStorage(requests_at_once=AT_ONCE), Encoder()
    entries = encoder.entries(20)
    assert not fill(Cache(storage), entries, should_stop=lambda: len(encoder.encoded) == 3)
    assert encoder.encoded == [0, 1, 2]
    assert set(storage.objects) == {entry.key for entry in entries[:3]}
