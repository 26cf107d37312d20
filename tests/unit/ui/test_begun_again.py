"""What comes after the end of a run in its home: another run in its place, or a job that ends a moment later."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from dreambooth_resume.errors import StoppedOnPurpose
from dreambooth_resume.launch.base import Job
from dreambooth_resume.launch.record import write_launch, write_started
from dreambooth_resume.runs.entries import Stopped
from dreambooth_resume.runs.holder import process_with
from dreambooth_resume.runs.record import read_record, write_record
from dreambooth_resume.storage.base import StoredObject
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.ui.compared import Compared
from dreambooth_resume.ui.homes import PACE, Homes
from dreambooth_resume.ui.open_run import OpenRun
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import measure, record_run

ID = "0123456789abcdef0123456789abcdef"


class Versioned(MemoryStorage):
    """Has an entity tag for every body, as S3 has."""

    def list(self, prefix: str = "") -> list[StoredObject]:
        return [replace(one, version=hashlib.sha256(self.objects[one.key]).hexdigest()) for one in super().list(prefix)]


def train(storage: MemoryStorage, *steps: int, created_at: str | None = None) -> None:
    record_run(storage)
    if created_at is not None:
        record = read_record(storage)
        assert record is not None
        storage.delete("run.json")
        write_record(storage, record.model_copy(update={"created_at": created_at}))
    attempt = begin(storage, steps=50)
    measure(storage, 1, {step: 1.0 / step for step in range(1, steps[-1] + 1)})
    for step in steps:
        attempt.commit(step)


@pytest.fixture
def dog() -> Versioned:
    storage = Versioned()
    train(storage, 10, 20, 30)
    return storage


def test_a_run_that_was_begun_again_while_nobody_looked_is_shown_as_itself(dog: Versioned) -> None:
    run = OpenRun("dog", dog)
    before = run.view()
    dog.objects.clear()
    train(dog, 15)
    now = run.view(fresh=True)
    assert before is not None
    assert now is not None
    assert now.record == read_record(dog) != before.record
    assert [one.folder for one in now.checkpoints] == ["checkpoint-15"]
    assert (now.row.durable_step, now.measured, len(now.attempts)) == (15, 15, 1)


def test_a_shorter_and_a_longer_log_of_another_run_are_both_noticed(dog: Versioned) -> None:
    run = OpenRun("dog", dog)
    run.view()
    for steps in ((1,), (1, 2, 3, 4, 5, 6)):
        dog.objects.clear()
        train(dog, *steps)
        view = run.view(fresh=True)
        assert view is not None
        assert view.record == read_record(dog)
        assert sorted(one.step for one in view.checkpoints) == [*steps]


def test_the_list_and_the_comparison_show_the_run_that_lies_there_now() -> None:
    storage = Versioned(name="s3://bucket/runs")
    train(storage, 10)

    def opened(_address: str, _s3: S3Settings | None) -> Versioned:
        return storage

    homes, compared, run = (
        Homes(["s3://bucket/runs"], opened=opened),
        Compared(monotonic=count(step=60).__next__),
        OpenRun("dog", storage),
    )
    (before,) = homes.look(details=True).rows
    facts = compared.facts(run)
    storage.objects.clear()
    train(storage, 10, created_at="2031-01-01T00:00:00+00:00")  # as far as the first one
    (now,) = homes.look(details=True).rows
    assert now.began_at == "2031-01-01T00:00:00+00:00" != before.began_at
    again = compared.facts(run)
    assert facts is not None
    assert again is not None
    assert again.record == read_record(storage) != facts.record


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is told to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


def test_a_job_that_outlives_its_stopped_run_for_a_moment_is_not_believed_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervisor: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    storage = LocalStorage(tmp_path / "runs" / "dog")
    write_launch(storage, ID, launcher="local", settings={}, words=(), version="1")
    values = {"launch": ID, "process": process_with(supervisor.pid).model_dump_json()}
    write_started(storage, ID, launcher="local", job=Job(name=f"pid {supervisor.pid}", values=values))
    record_run(storage)
    attempt = begin(storage)
    attempt.commit(1)
    attempt.committer.append(Stopped(reason="asked", exit_code=StoppedOnPurpose.exit_code))
    clock = [1000.0]
    homes = Homes([str(tmp_path / "runs")], monotonic=lambda: clock[0])
    run = OpenRun(str(storage.root), storage, monotonic=lambda: clock[0])

    def states() -> list[str]:
        (row,) = homes.look(details=True).rows
        view = run.view(fresh=True)
        assert view is not None
        return [row.state, view.row.state]

    assert states() == ["resuming", "resuming"]  # it may be about to start the next attempt
    supervisor.communicate(b"\n")
    clock[0] += PACE.ending_job + 0.1
    assert states() == ["stopped", "stopped"]
