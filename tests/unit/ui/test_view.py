"""States, sentences, order: what the pages say of a run, as pure functions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dreambooth_resume.runs.registry import FoundRun
from dreambooth_resume.runs.summary import RunSummary
from dreambooth_resume.ui.view import (
    JobView,
    RunDetail,
    RunRow,
    UiState,
    chosen_rows,
    counted,
    money,
    row_of,
    sentence,
    span,
    state_of,
)
from tests.fakes.toy_run import machine

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUNNING = RunSummary(
    home="runs/dog", state="running", because="its process lives", is_certain=True, attempt=2, process=machine("gpu-7"),
    phase="training", step=120, durable_step=100, durable_age_seconds=60.0, max_train_steps=500, beat_age_seconds=3.0,
    loss=0.25, learning_rate=1e-4, samples_per_second=2.0, steps_trained=100, redone_steps=0, training_seconds=50.0,
    alarm=None,
)  # fmt: skip


def ended(state: str, exit_code: int | None, because: str = "SIGTERM") -> RunSummary:
    return replace(RUNNING, state=state, exit_code=exit_code, because=because, process=None)  # type: ignore[arg-type]


def job(state: str) -> JobView:
    return JobView(launcher="slurm", name="job 7", state=state, because="pending: Resources")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("summary", "newest_job", "state"),
    [
        (RUNNING, None, "running"),
        (replace(RUNNING, phase="saving"), None, "saving"),
        (replace(RUNNING, beat_age_seconds=61.0), None, "stalled"),
        (replace(RUNNING, state="starting"), None, "resuming"),
        (replace(RUNNING, state="starting", attempt=1, durable_step=None), None, "starting"),
        (ended("interrupted", 75), None, "interrupted"),
        (ended("vanished", None), None, "interrupted"),
        (ended("vanished", None), job("waiting"), "waiting"),
        (ended("interrupted", 75), job("running"), "resuming"),
        (ended("interrupted", 75), job("ended"), "interrupted"),
        (ended("stopped", 76), None, "stopped"),
        (ended("stopped", 78), None, "failed"),
        (ended("stopped", 2), None, "failed"),
        (ended("finished", 0), job("running"), "finished"),
    ],
)
def test_the_state_is_derived_from_log_heartbeat_and_job(
    summary: RunSummary, newest_job: JobView | None, state: UiState
) -> None:
    assert state_of(summary, newest_job) == state


def test_the_sentence_says_what_is_safe_and_what_to_do() -> None:
    assert sentence(RUNNING, None) == "Attempt 2 trains on gpu-7; step 100 is safe."
    lost = ended("vanished", None, "its process 7 is no more, and it said no goodbye")
    assert sentence(lost, None).endswith("step 100 is safe, and Resume goes on from there.")
    assert sentence(ended("stopped", 76, "asked by a@b"), None).startswith("Stopped on purpose (asked by a@b)")
    assert "nothing is saved yet" in sentence(replace(RUNNING, durable_step=None), None)
    crashed = replace(job("ended"), last_exit="out of disk")
    assert "out of disk" in sentence(ended("stopped", 78), crashed)


def test_a_row_has_age_time_left_and_cost() -> None:
    detail = RunDetail(interruptions=3, cost=1.5, effective_batch=4, began_at="2026-01-01T00:00:00+00:00", job=None)
    row = row_of(FoundRun(home="runs/dog", summary=RUNNING), detail, now=NOW)
    assert (row.name, row.durable_at, row.seconds_left) == ("dog", "2026-01-02T03:03:05+00:00", 380 * 4 / 2.0)
    assert (row.interruptions, row.cost, row.where, row.part) == (3, 1.5, "gpu-7", 0.24)
    bare = row_of(FoundRun(home="runs/dog", summary=RUNNING), None, now=NOW)
    assert (bare.interruptions, bare.seconds_left) == (None, None)


def test_a_run_that_cannot_be_read_is_shown_with_its_reason() -> None:
    row = row_of(FoundRun(home="runs/bad", summary=None, problem="run.json can't be read"), None, now=NOW)
    assert (row.state, row.because) == ("unreadable", "run.json can't be read")
    assert not row.is_live
    assert not row.is_resumable


def rows() -> list[RunRow]:
    found = {
        "runs/cat": RUNNING,
        "runs/dog": ended("stopped", 76),
        "runs/ox": replace(ended("finished", 0), step=500, durable_age_seconds=9000.0),
        "runs/elk": ended("stopped", 78),
    }
    return [row_of(FoundRun(home=home, summary=summary), None, now=NOW) for home, summary in found.items()]


def test_search_takes_every_word_from_name_place_and_state() -> None:
    def names(words: str, state: str = "all") -> list[str]:
        return [row.name for row in chosen_rows(rows(), words=words, state=state, sort="name")]

    assert names("") == ["cat", "dog", "elk", "ox"]
    assert names("GPU-7") == ["cat"]
    assert names("runs stopped") == ["dog"]
    assert names("nothing like it") == []
    assert names("", "live") == ["cat"]
    assert names("", "failed") == ["elk"]


def test_what_moves_comes_first_unless_sorted_otherwise() -> None:
    assert chosen_rows(rows(), words="", state="all", sort="newest")[0].name == "cat"
    assert chosen_rows(rows(), words="", state="all", sort="step")[0].name == "ox"
    assert counted(rows()) == "4 runs: 1 live, 1 to look at"


def test_spans_and_money_are_short() -> None:
    assert [span(one) for one in (None, 40, 600, 3 * 3600 + 1200, 7200, 200_000)] == [
        "", "40 s", "10 min", "3 h 20 min", "2 h", "2 days",
    ]  # fmt: skip
    assert [money(one) for one in (None, 0.0, 0.004, 1.234, 1234.5)] == ["", "$0.00", "<$0.01", "$1.23", "$1,234.50"]
