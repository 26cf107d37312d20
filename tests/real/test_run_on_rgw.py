"""Kill and resume on a real gateway, which ignores checksums and answers 411 to those in trailers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.probe import probe
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, committed_steps, log_of, result_digests
from tests.resume.s3_home import S3Home

LONG = {"max_train_steps": 40, "checkpointing_steps": 4, "train_batch_size": 1, "checkpoints_total_limit": 2}
IN_PARTS = {"dreambooth_resume.storage.s3_address:S3Settings.in_parts_above_bytes": 50_000}
WRITERS = 16


def test_second_writers_are_refused(storage: Storage, open_again: Callable[[], Storage]) -> None:
    assert "a second writer is refused" in probe(storage, allow_unfenced=False)
    for number in range(10):
        key = f"log/{number:08d}.json"
        winners = winners_of_a_race(open_again, key)
        assert [str(writer).encode() for writer in winners] == [storage.read(key)]


def winners_of_a_race(open_again: Callable[[], Storage], key: str) -> list[int]:
    at_once = threading.Barrier(WRITERS)

    def won(writer: int) -> bool:
        at_once.wait()
        return open_again().put_if_absent(key, str(writer).encode())

    with ThreadPoolExecutor(WRITERS) as writers:
        return [writer for writer, is_first in enumerate(writers.map(won, range(WRITERS))) if is_first]


def test_killed_and_resumed_on_an_empty_machine_it_ends_in_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, tmp_path: Path
) -> None:
    process = bench.start(tmp_path / "one", **LONG, **s3_home.options())
    process.wait_for(lambda: len(committed_steps(s3_home.storage)) >= 2, "two commits")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    bench.run(tmp_path / "two", **LONG, **s3_home.options())
    assert log_of(s3_home.storage).highest_attempt == 2
    assert result_digests(s3_home.storage) == undisturbed(**LONG)


def test_frozen_it_is_fenced_when_it_wakes(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, tmp_path: Path
) -> None:
    first = bench.start(tmp_path / "one", **LONG, **s3_home.options())
    first.wait_for_step(6)
    first.send(signal.SIGSTOP)
    options = {**LONG, **s3_home.options(), "take_over": True}
    bench.run(tmp_path / "two", **options)
    first.send(signal.SIGCONT)
    assert first.wait() == 79, first.output()
    assert result_digests(s3_home.storage) == undisturbed(**LONG)


def test_checkpoints_in_parts_are_read_back_as_they_were_written(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, tmp_path: Path
) -> None:
    process = bench.start(tmp_path / "one", limits=IN_PARTS, **LONG, **s3_home.options())
    assert process.wait() == 0, process.output()
    assert result_digests(s3_home.storage) == undisturbed(**LONG)
