"""The job, its restarts and its time limit, from what the job's environment says."""

from __future__ import annotations

import pytest

from dreambooth_resume.preemption.deadline import DeadlineSource, lead_of
from dreambooth_resume.preemption.slurm import NAME, job_here, seconds_to_the_limit
from dreambooth_resume.runs.entries import PlatformJob

pytestmark = pytest.mark.quick
NOW = 1_795_000_000.0


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ("1795003600", 3600.0),
        (None, None),
        ("", None),
        ("UNLIMITED", None),
        ("1794999999", None),  # over already: somebody prolonged the job, and nobody told it
        ("4294967294", None),  # Slurm's word for "no limit"
    ],
)
def test_the_limit_is_known_where_slurm_says_it(told: str | None, left: float | None) -> None:
    environment = {} if told is None else {"SLURM_JOB_END_TIME": told}
    assert seconds_to_the_limit(environment, lambda: NOW) == left


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "3"}, PlatformJob(name="Slurm job 7", restarts=3)),
        ({"SLURM_JOB_ID": "7"}, PlatformJob(name="Slurm job 7")),  # before its first restart Slurm doesn't count
        ({"SLURM_RESTART_COUNT": "3"}, None),
        ({}, None),
    ],
)
def test_a_job_is_known_with_its_restarts(environment: dict[str, str], job: PlatformJob | None) -> None:
    assert job_here(environment) == job


def test_it_is_a_notice_two_minutes_before_the_end() -> None:
    now = 0.0
    source = DeadlineSource(3600.0, started_monotonic_s=0.0, name=NAME, monotonic=lambda: now)
    now = 3479.0
    assert source.notice() is None
    now = 3481.0
    notice = source.notice()
    assert notice is not None
    assert (notice.source, notice.exit_code, notice.deadline_monotonic_s) == ("Slurm's time limit", 75, 3600.0)


def test_of_a_short_limit_a_tenth_is_left() -> None:
    assert (lead_of(60.0), lead_of(1200.0), lead_of(86_400.0)) == (6.0, 120.0, 120.0)
