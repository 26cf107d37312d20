"""Reading the log: what follows from it, and what is refused instead of guessed."""

from __future__ import annotations

import json

import pytest
from pydantic import JsonValue

from dreambooth_resume.errors import AccessDenied, Fenced, OutcomeUnknown, RefusedToGoOn, StorageUnavailable
from dreambooth_resume.runs.entries import sealed
from dreambooth_resume.runs.home import log_key
from dreambooth_resume.runs.log import Log, LogWriter, make_entry, put_entry, read_log
from dreambooth_resume.storage.base import StoredObject
from tests.fakes.faulty_storage import Fault, FaultyStorage
from tests.fakes.logs import NOTHING_YET, adopt, commit, finished, log_of, put_log, stopped
from tests.fakes.memory_storage import MemoryStorage

pytestmark = pytest.mark.quick


def test_an_empty_home_has_an_empty_log() -> None:
    log = read_log(MemoryStorage())
    assert (log.entries, log.last, log.line, log.highest_attempt, log.next_number) == ((), None, (), 0, 1)


def test_what_was_put_is_what_is_read() -> None:
    storage = MemoryStorage()
    assert read_log(storage) == Log()
    written = put_log(storage, adopt(), commit(1), commit(2, retire=(2,)), stopped(), adopt(3), finished(3))
    read = read_log(storage)
    assert read == written
    assert read.finished == finished(3)
    assert read.highest_attempt == 2


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 30])
def test_asked_for_side_by_side_it_is_the_same_log(count: int) -> None:
    storage = MemoryStorage(requests_at_once=8)
    written = put_log(storage, adopt(), *(commit(step) for step in range(1, count)))
    storage.calls.clear()
    assert read_log(storage) == written
    assert storage.count("read") == len(written.entries) + 1
    storage.calls.clear()
    assert read_log(storage, written) == written
    assert storage.calls == [("read", log_key(written.next_number))]
    assert read_log(storage, Log(written.entries[:1])) == written


def test_side_by_side_the_first_trouble_is_what_counts() -> None:
    """What lies behind an entry that can't be had was read as well, and says nothing: that is the rule of the log."""
    storage = MemoryStorage(requests_at_once=8)
    put_log(storage, adopt(), *(commit(step) for step in range(1, 8)))
    storage.objects[log_key(5)] = b"damaged"
    whole = storage.objects.pop(log_key(3))
    with pytest.raises(RefusedToGoOn, match=r"00000003\.json is missing, but log/00000004\.json is there"):
        read_log(storage)
    storage.objects[log_key(3)] = whole
    with pytest.raises(RefusedToGoOn, match=r"00000005\.json can't be read"):
        read_log(storage)

    def unavailable(call: str, key: str) -> None:
        if (call, key) == ("read", log_key(2)):
            raise StorageUnavailable("503")

    storage.before = unavailable
    with pytest.raises(StorageUnavailable):
        read_log(storage)


def test_the_line_is_own_checkpoints_then_what_the_adopt_names_and_so_on_back() -> None:
    log = log_of(adopt(), commit(1), commit(2), adopt(2), commit(2, attempt=2), adopt(5), commit(3, attempt=3))
    assert log.line == (2, 5, 7)
    assert log.off_line() == (3,)


def test_a_line_goes_through_set_aside_and_retired_checkpoints() -> None:
    log = log_of(adopt(), commit(1), commit(2), commit(3, retire=(2,)), adopt(3, set_aside=(4,)))
    assert log.line == (2, 3)
    assert log.usable_line() == (3,)
    assert log.off_line() == ()


def test_an_adopt_without_a_commit_keeps_the_line() -> None:
    log = log_of(adopt(), commit(1), adopt(2), adopt(2), adopt(2))
    assert log.line == (2,)
    assert log.highest_attempt == 4


def test_an_adopt_of_step_0_begins_a_new_line() -> None:
    log = log_of(adopt(), adopt())
    assert log.line == ()


def resealed(entry: dict[str, JsonValue]) -> bytes:
    """A changed entry as its writer would have sealed it."""
    return sealed({name: value for name, value in entry.items() if name != "sha256"})


def test_every_flipped_bit_of_an_entry_is_found() -> None:
    storage = MemoryStorage()
    put_log(storage, adopt(), commit(1))
    whole = storage.objects[log_key(2)]
    blank = {place for place, byte in enumerate(whole) if byte in b" \n"}  # what JSON doesn't read
    for place in sorted(set(range(len(whole))) - blank):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 7
        storage.objects[log_key(2)] = bytes(flipped)
        with pytest.raises(RefusedToGoOn):
            read_log(storage)


@pytest.mark.parametrize("base", [1, 9])
def test_an_adopt_of_what_is_no_checkpoint_is_refused_and_never_step_0(base: int) -> None:
    storage = MemoryStorage()
    put_log(storage, adopt(), commit(1), adopt(2))
    entry = json.loads(storage.objects[log_key(3)])
    entry["body"]["base"] = base
    storage.objects[log_key(3)] = resealed(entry)
    with pytest.raises(RefusedToGoOn):
        read_log(storage)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_gap_in_the_log_is_refused(missing: int) -> None:
    storage = MemoryStorage()
    put_log(storage, adopt(), commit(1), commit(2), commit(3))
    del storage.objects[log_key(missing)]
    with pytest.raises(RefusedToGoOn, match=f"0000000{missing}.json is missing"):
        read_log(storage)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\x00\xff", b"null", b"[]", b'{"number": 2}'],
    ids=["empty", "torn", "noise", "null", "list", "part"],
)
def test_a_damaged_entry_is_refused(body: bytes) -> None:
    storage = MemoryStorage()
    put_log(storage, adopt(), commit(1), commit(2))
    storage.objects[log_key(2)] = body
    with pytest.raises(RefusedToGoOn, match=r"00000002\.json can't be read"):
        read_log(storage)


def test_every_truncated_entry_is_refused() -> None:
    storage = MemoryStorage()
    put_log(storage, adopt(), commit(1))
    whole = storage.objects[log_key(2)]
    for size in range(len(whole)):
        storage.objects[log_key(2)] = whole[:size]
        with pytest.raises(RefusedToGoOn):
            read_log(storage)


def test_swapped_entries_are_refused() -> None:
    storage = MemoryStorage()
    put_log(storage, adopt(), commit(1), commit(2))
    one, two = log_key(2), log_key(3)
    storage.objects[one], storage.objects[two] = storage.objects[two], storage.objects[one]
    with pytest.raises(RefusedToGoOn, match="holds entry 3"):
        read_log(storage)


@pytest.mark.parametrize("change", [("format", 3), ("kind", "merged")])
def test_an_entry_of_a_later_release_is_refused_and_says_to_update(change: tuple[str, object]) -> None:
    storage = MemoryStorage()
    put_log(storage, adopt())
    entry = json.loads(storage.objects[log_key(1)])
    (entry if change[0] in entry else entry["body"])[change[0]] = change[1]
    storage.objects[log_key(1)] = resealed(entry)
    with pytest.raises(RefusedToGoOn, match="update dbr"):
        read_log(storage)


def test_a_name_that_a_later_release_adds_is_passed_over() -> None:
    storage = MemoryStorage()
    written = put_log(storage, adopt())
    entry = json.loads(storage.objects[log_key(1)])
    entry["mood"] = entry["body"]["mood"] = "good"
    storage.objects[log_key(1)] = resealed(entry)
    assert read_log(storage) == written


def test_stray_files_beside_the_log_disturb_nothing() -> None:
    storage = MemoryStorage()
    written = put_log(storage, adopt(), commit(1))
    for name in (".DS_Store", "00000003.json.tmp", "3.json", "000000003.json", "00000009.txt", "old/00000003.json"):
        storage.objects[f"log/{name}"] = b"stray"
    assert read_log(storage) == written


class ListsLate(MemoryStorage):
    """A listing that doesn't show the newest keys yet."""

    lag = 0

    def list(self, prefix: str = "") -> list[StoredObject]:
        found = super().list(prefix)
        return found[: len(found) - self.lag]


@pytest.mark.parametrize("at_once", [1, 8])
@pytest.mark.parametrize("lag", [1, 2, 4])
def test_a_listing_that_lags_is_probed_forward(lag: int, at_once: int) -> None:
    storage = ListsLate(requests_at_once=at_once)
    written = put_log(storage, adopt(), commit(1), commit(2), commit(3))
    storage.lag = lag
    assert read_log(storage) == written


@pytest.mark.parametrize("error", [AccessDenied("403"), StorageUnavailable("503"), StorageUnavailable("time-out")])
@pytest.mark.parametrize("call", ["list", "read"])
def test_a_store_that_does_not_answer_is_never_an_empty_log(error: Exception, call: str) -> None:
    storage = MemoryStorage()
    put_log(storage, adopt(), commit(1))

    def answer(made: str, _key: str) -> None:
        if made == call:
            raise error

    storage.before = answer
    with pytest.raises(type(error)):
        read_log(storage)


def test_put_entry_returns_whoever_was_first() -> None:
    storage = MemoryStorage()
    first, second = (make_entry(number=1, attempt=1, body=adopt(), state=NOTHING_YET) for _ in range(2))
    assert put_entry(storage, first) == first
    assert put_entry(storage, second) == first
    assert put_entry(storage, first) == first


def test_a_lost_answer_is_settled_by_reading_and_makes_sure_that_the_entry_is_durable() -> None:
    inner = MemoryStorage()
    entry = make_entry(number=1, attempt=1, body=adopt(), state=NOTHING_YET)
    assert put_entry(FaultyStorage(inner, at=1, fault=Fault.LOST_ANSWER), entry) == entry
    assert inner.count("put_if_absent") == 2


def test_an_entry_that_is_seen_but_never_confirmed_is_unknown() -> None:
    """A folder whose fsync fails: the entry is read, and gone after a power cut. Nothing may be deleted for it."""

    class NeverConfirms(MemoryStorage):
        def put_if_absent(self, key: str, body: bytes) -> bool:
            super().put_if_absent(key, body)
            raise OutcomeUnknown("the disk did not confirm it")

    with pytest.raises(OutcomeUnknown):
        put_entry(NeverConfirms(), make_entry(number=1, attempt=1, body=adopt(), state=NOTHING_YET))


@pytest.mark.parametrize("at", [1, 2])
def test_an_entry_whose_fate_cannot_be_read_is_unknown(at: int) -> None:
    storage = FaultyStorage(MemoryStorage(), at=at, fault=Fault.FAILS)
    with pytest.raises(OutcomeUnknown):
        put_entry(storage, make_entry(number=1, attempt=1, body=adopt(), state=NOTHING_YET))


def test_a_writer_meets_its_own_late_last_words_and_says_them_once() -> None:
    inner = MemoryStorage()
    storage = FaultyStorage(inner, at=3, fault=Fault.LANDS_LATE)
    writer = LogWriter(storage, put_log(storage, adopt()), attempt=1)
    with pytest.raises(OutcomeUnknown):
        writer.append(lambda log: (stopped(), NOTHING_YET))
    writer.append(lambda log: (stopped(), NOTHING_YET))
    assert [entry.body for entry in read_log(inner).entries] == [adopt(), stopped()]


def test_an_entry_that_does_not_parse_fences_the_writer() -> None:
    storage = MemoryStorage()
    writer = LogWriter(storage, put_log(storage, adopt()), attempt=1)
    storage.objects[log_key(2)] = b'{"format": 3}'
    with pytest.raises(Fenced):
        writer.append(lambda log: (stopped(), NOTHING_YET))
    assert storage.objects[log_key(2)] == b'{"format": 3}'


def test_a_long_log_has_its_whole_line() -> None:
    log, first = log_of(adopt()), commit(1)
    entries = [make_entry(number=number, attempt=1, body=first, state=NOTHING_YET) for number in range(2, 5002)]
    assert Log((*log.entries, *entries)).line == tuple(range(2, 5002))
