"""What `launch/base.py` promises, asked of every launcher."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.launch.base import Job
from dreambooth_resume.launch.launchers import LAUNCHERS, launcher_named, settings_options, split_words
from tests.contracts.launcher_cases import CASES, NEED_MORE, LauncherCase

pytestmark = pytest.mark.quick

CANARY = "hf_canary-that-nobody-may-see"
WAIT_SECONDS = 30.0


def test_every_launcher_is_tried_here() -> None:
    assert set(CASES) == set(LAUNCHERS)


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.real) if name in NEED_MORE else name for name in sorted(CASES)]
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def case(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LauncherCase]:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    with CASES[name](tmp_path, monkeypatch) as case:
        yield case


def wait_for(case: LauncherCase, job: Job, *states: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while (status := case.launcher.look(job)).state not in states:
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def test_no_option_of_a_launcher_is_called_like_one_of_train(name: str) -> None:
    assert not settings_options(name).keys() & OPTIONS.keys()
    assert not settings_options(name).keys() & {"launch", "queue_file", "dry_run", "on", "json"}


def test_options_of_a_launcher_have_help(name: str) -> None:
    assert all(len(option.help) > 10 for option in settings_options(name).values())


def test_settings_come_back_from_the_home_as_they_were(case: LauncherCase, name: str) -> None:
    kept = json.loads(json.dumps(case.launcher.settings.model_dump(mode="json")))
    assert launcher_named(name, kept).settings == case.launcher.settings


def test_words_of_train_are_left_in_their_order(name: str) -> None:
    words = ["--config", "run.yaml", "--rank=8", "--no-random_flip", "--instance_prompt", "a photo of sks dog"]
    assert split_words(name, words) == ({}, words)


def test_what_would_be_sent_is_shown_and_nothing_is_made(case: LauncherCase) -> None:
    before = case.made()
    case.launcher.check(case.request)
    shown = case.launcher.plan(case.request)
    case.launcher.price(case.request)
    assert case.made() == before
    assert case.request.launch_id in shown
    assert case.request.home in shown
    assert "supervise" in shown
    assert CANARY not in shown


def test_a_job_is_started_seen_interrupted_and_released(case: LauncherCase) -> None:
    number, name = case.request.launch_id, case.request.name
    assert case.launcher.find(number, name) is None
    job = case.launcher.start(case.request)
    try:
        assert case.launcher.find(number, name) == job, "whoever lost its handle finds it again"
        assert case.launcher.look(job).state in ("waiting", "running")
        assert case.launcher.look(job).because
        assert case.made()
        assert CANARY not in repr(job)
        # Kept in the home as JSON, and found again by another process.
        again = Job(name=job.name, values=json.loads(json.dumps(dict(job.values))))
        if case.launcher.interrupt(again):
            wait_for(case, again, "ended")
            assert case.launcher.interrupt(again) is True, "a job that has ended is fine"
        case.launcher.logs(again, follow=False)
    finally:
        case.launcher.release(job)
    case.launcher.release(job)
    wait_for(case, job, "ended", "unknown")


def test_a_start_that_fails_half_way_leaves_nothing(case: LauncherCase) -> None:
    before = case.made()
    case.break_start()
    with pytest.raises(Exception, match=r".+"):
        case.launcher.start(case.request)
    assert case.made() == before


def test_a_job_that_nobody_knows_is_no_error(case: LauncherCase) -> None:
    assert case.launcher.look(Job(name="of another user", values={})).state in ("ended", "unknown")


def test_launchers_that_own_no_machine_end_none(case: LauncherCase) -> None:
    if not case.launcher.owns_machine:
        before = case.made()
        case.launcher.end_machine(case.request.launch_id, "terminate")
        assert case.made() == before
