"""A run that was launched and has written nothing of its own: seen, explained, cancelled and started again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dreambooth_resume.launch.base import Job, JobState, JobStatus
from dreambooth_resume.launch.local import say_state
from dreambooth_resume.launch.record import write_launch, write_started
from dreambooth_resume.launch.state_folder import output_file
from dreambooth_resume.runs.entries import Process
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.notes import post_note
from dreambooth_resume.runs.summary import RunSummary, summarise_launch
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.ui import run_parts
from dreambooth_resume.ui.homes import Homes
from dreambooth_resume.ui.markup import runs_table
from dreambooth_resume.ui.open_run import OpenRun
from dreambooth_resume.ui.view import JobView, RunRow, UiState, sentence, state_of
from tests.fakes.watched_run import dead_process, record_run

ID = "0123456789abcdef0123456789abcdef"
OUTPUT = """\
Loading the base model
dbr: --rank: has to be at least 1
  fix: --rank 8
  more: docs/troubleshooting.md#2
dbr supervise: exit code 2
"""


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStorage:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return LocalStorage(tmp_path / "runs" / "dog")


def launch(storage: LocalStorage, process: Process) -> None:
    write_launch(storage, ID, launcher="local", settings={}, words=("--rank", "0"), version="1")
    values = {"launch": ID, "process": process.model_dump_json()}
    write_started(storage, ID, launcher="local", job=Job(name="pid 7", values=values))


def row_in_the_list(storage: LocalStorage) -> RunRow:
    (row,) = Homes([str(storage.root.parent)]).look(details=True).rows
    view = OpenRun(str(storage.root), storage).view()
    assert view is not None
    assert (view.row.state, view.row.because) == (row.state, row.because), "its page says the same as the list"
    return row


def test_one_that_waits_is_in_the_list_with_its_place_and_can_be_cancelled(storage: LocalStorage) -> None:
    launch(storage, this_process())
    say_state(ID, JobStatus(state="waiting", because="waits for its turn on this machine"))
    row = row_in_the_list(storage)
    assert (row.name, row.state, row.where, row.step) == ("dog", "waiting", "local", 0)
    assert row.because == "Waits for its turn on this machine; it has not begun."
    assert row.began_at is not None
    shown = runs_table([row], any_run=True, places=())
    assert 'data-act="stop"' in shown
    assert "Cancel" in shown


@pytest.mark.parametrize("note", [True, False])
def test_a_first_start_that_failed_says_why_in_one_sentence_and_shows_its_last_lines(
    storage: LocalStorage, *, note: bool
) -> None:
    launch(storage, dead_process())
    say_state(ID, JobStatus(state="ended", because="its supervisor ended with exit code 2", exit_code=2))
    output_file(ID).write_text(OUTPUT)
    if note:
        text = "exit code 2, not started again: dbr: --rank: has to be at least 1"
        post_note(storage, "exit", text, values={"launch": ID, "exit_code": 2})
    row = row_in_the_list(storage)
    assert (row.state, row.because) == ("failed", "The first start failed: --rank: has to be at least 1.")
    assert "Start again" in runs_table([row], any_run=True, places=())
    view = OpenRun(str(storage.root), storage).view()
    assert view is not None
    assert "fix: --rank 8" in run_parts.head(view, ())
    assert "Start again" in run_parts.actions(view.row, can_kill=False)


def test_one_that_wrote_its_record_and_then_failed_is_failed_at_once(storage: LocalStorage) -> None:
    launch(storage, dead_process())
    record_run(storage)
    say_state(ID, JobStatus(state="ended", because="its supervisor ended with exit code 77", exit_code=77))
    output_file(ID).write_text("dbr: s3://bucket/dog: access denied\n")
    row = row_in_the_list(storage)
    assert (row.state, row.steps) == ("failed", 10)
    assert row.because == "The first start failed: s3://bucket/dog: access denied."


def summary(storage: LocalStorage, *, minutes_ago: float) -> RunSummary:
    found = summarise_launch(storage, now=datetime.now(UTC) + timedelta(minutes=minutes_ago))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("job_state", "exit_code", "minutes_ago", "state"),
    [
        (None, None, 1, "starting"),
        (None, None, 60, "interrupted"),
        ("running", None, 60, "starting"),
        ("waiting", None, 6000, "waiting"),
        ("unknown", None, 1, "starting"),
        ("unknown", None, 60, "stalled"),
        ("unknown", 78, 1, "failed"),
        ("ended", None, 1, "interrupted"),
        ("ended", 75, 1, "interrupted"),
        ("ended", 76, 1, "stopped"),
        ("ended", 127, 1, "failed"),
    ],
)
def test_the_state_of_a_first_start_is_that_of_its_job(
    storage: LocalStorage, job_state: JobState | None, exit_code: int | None, minutes_ago: float, state: UiState
) -> None:
    launch(storage, this_process())
    job = None
    if job_state is not None:
        job = JobView(launcher="aws", name="dog", state=job_state, because="says the platform", exit_code=exit_code)
    found = summary(storage, minutes_ago=minutes_ago)
    assert state_of(found, job) == state
    assert sentence(found, job).endswith(".")
