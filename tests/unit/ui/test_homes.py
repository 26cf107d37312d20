"""Reading many homes: only what is new, only while somebody looks, and only below the places that were given."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from dreambooth_resume.errors import BadInput, StorageUnavailable
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.storage.urls import open_storage
from dreambooth_resume.ui.homes import Homes
from dreambooth_resume.ui.open_run import OpenRun, OpenRuns
from dreambooth_resume.ui.remembered import RememberedStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import beat, dead_process, hold, measure, record_run


class CountingStorage(MemoryStorage):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def read(self, key: str) -> bytes:
        self.reads[key] += 1
        return super().read(key)


@pytest.fixture
def dog(tmp_path: Path) -> LocalStorage:
    """A run of two commits, whose holder is a process that is no more."""
    storage = LocalStorage(tmp_path / "runs" / "dog")
    record_run(storage)
    attempt = begin(storage)
    attempt.commit(1)
    attempt.commit(2)
    return storage


def test_every_run_below_the_places_is_found_with_its_detail(tmp_path: Path, dog: LocalStorage) -> None:
    record_run(LocalStorage(tmp_path / "runs" / "sub" / "cat"))
    homes = Homes([str(tmp_path / "runs")])
    rows = homes.look(details=True).rows
    assert [row.name for row in rows] == ["dog", "cat"]
    assert rows[0].durable_step == 2
    assert rows[0].interruptions == 0


def test_a_killed_run_is_interrupted_at_the_next_look(tmp_path: Path, dog: LocalStorage) -> None:
    hold(dog, dead_process())
    (row,) = Homes([str(tmp_path / "runs")]).look(details=True).rows
    assert row.state == "interrupted"
    assert row.is_resumable


def test_a_second_look_reads_no_log_entry_again() -> None:
    storage = CountingStorage()
    record_run(storage)
    attempt = begin(storage)
    attempt.commit(1)
    beat(storage, 1, step=1)
    run = OpenRun("dog", storage)
    run.view()
    before = storage.reads.copy()
    run.view(fresh=True)
    again = {key for key in storage.reads - before if not key.startswith("status/")}
    assert again <= {"log/00000003.json"}  # which isn't there: it is asked for, in case it has come
    attempt.commit(2)
    before = storage.reads.copy()
    view = run.view(fresh=True)
    assert view is not None
    assert view.row.durable_step == 2
    read = {key for key in storage.reads - before if key.startswith("log/")}
    assert {"log/00000003.json"} <= read <= {"log/00000003.json", "log/00000004.json"}


def test_metrics_are_read_again_only_where_they_grew() -> None:
    storage = CountingStorage()
    record_run(storage)
    attempt = begin(storage, steps=3000)
    measure(storage, 1, {step: 1.0 / step for step in range(1, 1501)})
    attempt.commit(1500)
    run = OpenRun("dog", storage)
    first = run.view()
    assert first is not None
    assert first.measured == 1500
    measure(storage, 1, {step: 1.0 / step for step in range(1, 1601)})
    attempt.commit(1600)
    before = storage.reads.copy()
    view = run.view(fresh=True)
    assert view is not None
    assert view.measured == 1600
    assert [key for key in storage.reads - before if key.startswith("metrics/")] == ["metrics/0001-00002.jsonl"]


def test_a_deleted_run_is_no_longer_there() -> None:
    storage = CountingStorage()
    record_run(storage)
    begin(storage).commit(1)
    run = OpenRun("dog", storage)
    assert run.view() is not None
    for found in storage.list():
        storage.delete(found.key)
    assert run.view(fresh=True) is None


def test_what_is_remembered_is_bounded() -> None:
    storage = CountingStorage()
    for number in range(1, 9):
        storage.write(f"log/{number:08d}.json", [b"x" * 100])
    remembered = RememberedStorage(storage, bytes_kept=250)
    for number in range(1, 9):
        remembered.read(f"log/{number:08d}.json")
    remembered.read("log/00000008.json")
    assert storage.reads["log/00000008.json"] == 1
    remembered.read("log/00000001.json")
    assert storage.reads["log/00000001.json"] == 2


@pytest.mark.parametrize(
    "asked", ["../outside", "/etc/passwd", "", "runs/dog/../../outside", "s3://other/run", None, 7]
)
def test_a_home_that_was_not_found_below_the_places_is_never_opened(
    tmp_path: Path, dog: LocalStorage, asked: object
) -> None:
    record_run(LocalStorage(tmp_path / "outside"))
    homes = Homes([str(tmp_path / "runs")])
    homes.look()
    with pytest.raises(BadInput, match="no such run"):
        homes.found(asked)
    with pytest.raises(BadInput):
        OpenRuns(homes).run(asked)
    assert homes.found(str(dog.root)) == str(dog.root)
    assert homes.found(f"{dog.root}/") == str(dog.root)


def test_a_new_home_must_lie_below_the_places(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "out").symlink_to(tmp_path)
    homes = Homes([str(tmp_path / "runs"), "s3://bucket/mine"])
    assert homes.allows(str(tmp_path / "runs" / "new"))
    assert homes.allows("s3://bucket/mine/new")
    for outside in (
        tmp_path / "new",
        tmp_path / "runs",
        tmp_path / "runs" / ".." / "new",
        tmp_path / "runs" / "out" / "new",
    ):
        assert not homes.allows(str(outside))
    assert not homes.allows("s3://bucket/other")
    assert not homes.allows("s3://bucket/mine/../other")


def test_nothing_is_read_once_nobody_looks(tmp_path: Path, dog: LocalStorage) -> None:
    clock = [0.0]
    homes = Homes([str(tmp_path / "runs")], monotonic=lambda: clock[0])
    assert homes.snapshot().is_read is False  # its thread isn't started, so this is all there is
    homes.look()
    assert homes.snapshot().is_read
    assert len(homes.snapshot().rows) == 1


def test_a_place_that_is_gone_is_a_problem_and_hides_nothing(tmp_path: Path, dog: LocalStorage) -> None:
    found = Homes([str(tmp_path / "runs"), str(tmp_path / "gone")]).look()
    assert len(found.rows) == 1
    assert "there is no such folder" in found.problems[0]


def test_the_runs_of_a_folder_that_was_removed_are_gone(tmp_path: Path, dog: LocalStorage) -> None:
    homes = Homes([str(tmp_path / "runs")])
    assert len(homes.look().rows) == 1
    shutil.rmtree(tmp_path / "runs")
    assert homes.look().rows == ()


def test_a_place_that_does_not_answer_holds_up_no_other(tmp_path: Path) -> None:
    record_run(LocalStorage(tmp_path / "dog"))
    answers = threading.Event()

    def opened(address: str, s3: S3Settings | None) -> Storage:
        if address.startswith("s3://"):
            answers.wait(60.0)
            raise StorageUnavailable("no answer")
        return open_storage(address, s3)

    homes = Homes([str(tmp_path), "s3://silent/runs"], opened=opened)
    homes.start()
    try:
        deadline = time.monotonic() + 60.0
        while not homes.snapshot().rows:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (row,) = homes.snapshot().rows
        assert homes.found(row.home) == row.home
        with pytest.raises(BadInput, match="no such run"):
            homes.found(str(tmp_path / "cat"))
        assert homes.snapshot().problems == ()
        answers.set()
        while not homes.snapshot().problems:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert [one.home for one in homes.snapshot().rows] == [row.home]
    finally:
        answers.set()
        homes.close()
