"""What `storage/base.py` promises, asked of every store."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.probe import probe

pytestmark = pytest.mark.quick


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [found.key for found in storage.list(prefix)]


def test_read_returns_what_was_written(storage: Storage) -> None:
    storage.write("checkpoint-5/weights", [b"one", bytearray(b" two"), memoryview(b" three")])
    assert storage.read("checkpoint-5/weights") == b"one two three"


@pytest.mark.parametrize("parts", [[], [b""], [b"", b"x", b""], [b"x" * 3_000_000]])
def test_bodies_of_any_size_are_kept(storage: Storage, parts: list[bytes]) -> None:
    storage.write("body", parts)
    assert storage.read("body") == b"".join(parts)
    assert storage.digest("body").size_bytes == len(b"".join(parts))


def test_write_replaces_the_whole_body(storage: Storage) -> None:
    storage.write("status/0001.json", [b"a long first body"], durable=False)
    storage.write("status/0001.json", [b"short"])
    assert storage.read("status/0001.json") == b"short"


def test_write_replaces_what_put_if_absent_created(storage: Storage) -> None:
    assert storage.put_if_absent("cache/x.safetensors", b"first")
    storage.write("cache/x.safetensors", [b"second"])
    assert storage.read("cache/x.safetensors") == b"second"
    assert keys(storage) == ["cache/x.safetensors"]


@pytest.mark.parametrize("key", ["absent", "no-folder/absent", "body/below-a-key"])
def test_what_is_not_there_is_not_found(storage: Storage, key: str) -> None:
    storage.write("body", [b"x"])
    with pytest.raises(KeyNotFound):
        storage.read(key)
    with pytest.raises(KeyNotFound):
        storage.digest(key)


def test_a_prefix_of_keys_is_no_key(storage: Storage) -> None:
    storage.write("checkpoint-5/weights", [b"x"])
    with pytest.raises(KeyNotFound):
        storage.read("checkpoint-5")
    storage.delete("checkpoint-5")
    assert keys(storage) == ["checkpoint-5/weights"]


def test_put_if_absent_creates_once_and_keeps_the_first(storage: Storage) -> None:
    assert storage.put_if_absent("log/00000001.json", b"first") is True
    assert storage.put_if_absent("log/00000001.json", b"second") is False
    assert storage.read("log/00000001.json") == b"first"


def test_put_if_absent_is_refused_by_a_written_key(storage: Storage) -> None:
    storage.write("run.json", [b"first"])
    assert storage.put_if_absent("run.json", b"second") is False
    assert storage.read("run.json") == b"first"


def test_put_if_absent_of_an_empty_body_takes_the_key(storage: Storage) -> None:
    assert storage.put_if_absent("log/00000001.json", b"") is True
    assert storage.put_if_absent("log/00000001.json", b"x") is False
    assert storage.read("log/00000001.json") == b""


def test_a_deleted_key_can_be_put_again(storage: Storage) -> None:
    storage.put_if_absent("cache/x.safetensors", b"damaged")
    storage.delete("cache/x.safetensors")
    assert storage.put_if_absent("cache/x.safetensors", b"whole") is True
    assert storage.read("cache/x.safetensors") == b"whole"


@pytest.mark.parametrize("key", ["log/00000001.json", "inputs/0a1b", "cache/x.safetensors", "run.json"])
def test_a_created_key_is_listed_as_itself_and_nothing_more(storage: Storage, key: str) -> None:
    storage.put_if_absent(key, b"12345")
    assert [(found.key, found.size_bytes) for found in storage.list()] == [(key, 5)]
    assert keys(storage, key) == [key]


def test_digest_is_of_what_is_stored(storage: Storage) -> None:
    body = bytes(range(256)) * 1000
    storage.write("checkpoint-5/weights", [body[:7], body[7:]])
    storage.put_if_absent("log/00000001.json", body)
    for key in ("checkpoint-5/weights", "log/00000001.json"):
        digest = storage.digest(key)
        assert (digest.size_bytes, digest.sha256) == (len(body), hashlib.sha256(body).hexdigest())


def test_a_writer_is_told_whether_exactly_its_bytes_are_stored(storage: Storage) -> None:
    body = bytes(range(256)) * 5000
    sha256 = hashlib.sha256(body).hexdigest()
    storage.write("checkpoint-5/weights", [body[:7], memoryview(body)[7:]])
    assert storage.holds("checkpoint-5/weights", [body[:100_000], body[100_000:], b""], sha256=sha256)
    for other in (
        body[:-1] + b"!",
        b"!" + body[1:],
        body[:-1],
        body + b"!",
        b"",
        body[:600_000] + b"!" + body[600_001:],
    ):
        storage.write("checkpoint-5/weights", [other])
        assert not storage.holds("checkpoint-5/weights", [body], sha256=sha256)
    assert storage.holds("checkpoint-5/weights", [other], sha256=hashlib.sha256(other).hexdigest())
    with pytest.raises(KeyNotFound):
        storage.holds("checkpoint-5/absent", [body], sha256=sha256)


def test_a_prefix_is_of_the_key_and_not_of_folders(storage: Storage) -> None:
    written = ["checkpoint-5/a", "checkpoint-50/a", "checkpoint-50-a2/a", "checkpoint-500/a", "log/1.json", "run.json"]
    for key in written:
        storage.write(key, [b"x"])
    assert keys(storage) == sorted(written)
    assert keys(storage, "checkpoint-5/") == ["checkpoint-5/a"]
    assert keys(storage, "checkpoint-5") == sorted(written[:4])
    assert keys(storage, "checkpoint-50") == sorted(written[1:4])
    assert keys(storage, "check") == sorted(written[:4])
    assert keys(storage, "run.json") == ["run.json"]
    assert keys(storage, "log") == ["log/1.json"]
    assert keys(storage, "nothing/") == keys(storage, "log/2") == []


class Taken:
    """The pieces of a body."""

    def __init__(self) -> None:
        self.body = b""

    def update(self, piece: bytes, /) -> None:
        self.body += piece


@pytest.mark.parametrize("size_bytes", [0, 1, 3_000_000])
def test_a_download_is_the_whole_body(storage: Storage, size_bytes: int) -> None:
    body = bytes(range(256)) * (size_bytes // 256) + b"x" * (size_bytes % 256)
    storage.write("checkpoint-5/weights", [body])
    storage.put_if_absent("log/00000001.json", body)
    for key in ("checkpoint-5/weights", "log/00000001.json"):
        assert storage.download(key, Taken).body == body
    with pytest.raises(KeyNotFound):
        storage.download("absent", Taken)


def test_folders_are_those_right_below_that_hold_keys(storage: Storage) -> None:
    for key in ("run.json", "runs/dog/run.json", "runs/dog/log/00000001.json", "runs/dogs/run.json", "runs/list"):
        storage.write(key, [b"x"])
    storage.put_if_absent("runs/created", b"x")
    storage.write("emptied/key", [b"x"])
    storage.delete("emptied/key")
    assert storage.folders() == ["runs/"]
    assert storage.folders("runs/") == ["runs/dog/", "runs/dogs/"]
    assert storage.folders("runs/dog/") == ["runs/dog/log/"]
    assert storage.folders("runs/dogs/") == storage.folders("absent/") == []


def test_an_absent_home_is_empty(storage: Storage) -> None:
    assert storage.list() == storage.folders() == []
    storage.delete("anything/at-all")


def test_delete_takes_the_exact_key_alone(storage: Storage) -> None:
    for key in ("checkpoint-5/a", "checkpoint-50/a", "checkpoint-5/ab"):
        storage.write(key, [b"x"])
    storage.delete("checkpoint-5/a")
    storage.delete("checkpoint-5/a")
    assert keys(storage) == ["checkpoint-5/ab", "checkpoint-50/a"]


def test_claim_disturbs_nothing_that_is_complete(storage: Storage) -> None:
    storage.write("checkpoint-5/a", [b"x"])
    storage.put_if_absent("log/00000001.json", b"x")
    storage.claim(2)
    storage.write("checkpoint-6-a2/a", [b"y"])
    assert keys(storage) == ["checkpoint-5/a", "checkpoint-6-a2/a", "log/00000001.json"]


def test_the_probe_finds_writers_kept_apart_and_leaves_nothing(storage: Storage) -> None:
    assert "a second writer is refused" in probe(storage, allow_unfenced=False)
    assert storage.list() == []


def test_of_many_writers_one_creates_the_key(open_again: Callable[[], Storage]) -> None:
    writers = 16
    for number in range(5):
        start = threading.Barrier(writers)

        def put(name: int, *, number: int = number, start: threading.Barrier = start) -> bool:
            storage = open_again()
            start.wait()
            return storage.put_if_absent(f"log/{number}.json", f"{name}".encode())

        with ThreadPoolExecutor(writers) as pool:
            created = list(pool.map(put, range(writers)))
        assert created.count(True) == 1
        assert open_again().read(f"log/{number}.json") == f"{created.index(True)}".encode()


def test_no_reader_sees_half_a_body(open_again: Callable[[], Storage]) -> None:
    storage, done = open_again(), threading.Event()
    bodies = [bytes([letter]) * 200_000 for letter in b"ab"]
    storage.write("replaced", [bodies[0]])

    def look() -> set[bytes]:
        reader, seen = open_again(), set[bytes]()
        while not done.is_set():
            seen.add(reader.read("replaced"))
            for found in reader.list("created/"):
                assert found.size_bytes == 200_000
                assert reader.read(found.key) in bodies
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(look) for _ in range(2)]
        try:
            for number in range(40):
                storage.write("replaced", [bodies[number % 2]], durable=False)
                storage.put_if_absent(f"created/{number % 20}", bodies[number % 2])
        finally:
            done.set()
        assert all(reader.result() <= set(bodies) for reader in readers)


def test_a_created_key_is_absent_or_whole_and_never_a_failure(open_again: Callable[[], Storage]) -> None:
    """A starter probes the log forward while another one writes it."""
    done = threading.Event()

    def look() -> None:
        reader = open_again()
        while not done.is_set():
            for number in range(60):
                try:
                    assert reader.read(f"log/{number}.json") == b"whole"
                except KeyNotFound:
                    break

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(look) for _ in range(2)]
        storage = open_again()
        try:
            for number in range(60):
                assert storage.put_if_absent(f"log/{number}.json", b"whole")
        finally:
            done.set()
        for reader in readers:
            reader.result()


def test_folders_that_come_and_go_stop_no_writer(open_again: Callable[[], Storage]) -> None:
    """`control/` is emptied by the holder, and by every start's probe, while a user asks for something."""

    def come_and_go(name: int) -> None:
        storage = open_again()
        for number in range(30):
            key = f"control/{name}-{number}.json"
            assert storage.put_if_absent(key, b"x")
            storage.delete(key)
            storage.write(key, [b"y"], durable=False)
            storage.delete(key)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(4)))
    assert open_again().list() == []
