"""When a notice means a save, more training, or the end."""

from __future__ import annotations

import pytest

from dreambooth_resume.preemption.heed import Heed, NoticeHeeder, what_a_notice_needs
from dreambooth_resume.runs.notice import Lead, Notice

pytestmark = pytest.mark.quick

IN_TWO_MINUTES = Notice(source="AWS", exit_code=75, deadline_monotonic_s=120.0)


def decide(heeder: NoticeHeeder, notice: Notice | None, *, at: float, save_seconds: float | None = 2.0) -> Heed:
    return heeder.decide(notice, now_monotonic_s=at, step_seconds=1.0, save_seconds=save_seconds)


def test_a_notice_with_time_is_saved_for_once_and_trained_on_until_two_saves_fit_no_more() -> None:
    heeder = NoticeHeeder()
    decided = [decide(heeder, IN_TWO_MINUTES, at=float(second)) for second in range(120)]
    assert decided[0] is Heed.SAVE
    assert decided[1:114] == [Heed.TRAIN] * 113
    assert decided[114] is Heed.LEAVE


def test_a_notice_that_is_withdrawn_cost_one_save_and_the_next_costs_one_again() -> None:
    heeder = NoticeHeeder()
    said = [IN_TWO_MINUTES, IN_TWO_MINUTES, None, IN_TWO_MINUTES]
    decided = [decide(heeder, notice, at=1.0) for notice in said]
    assert decided == [Heed.SAVE, Heed.TRAIN, Heed.TRAIN, Heed.SAVE]


@pytest.mark.parametrize(
    "notice",
    [
        Notice(source="SIGTERM", exit_code=75),
        Notice(source="SIGTERM", exit_code=75, deadline_monotonic_s=120.0, insistence=2),
        Notice(source="Ctrl-C", exit_code=76, deadline_monotonic_s=120.0),
        Notice(source="AWS", exit_code=75, deadline_monotonic_s=5.0),
        Notice(source="AWS", exit_code=75, deadline_monotonic_s=-5.0),
    ],
)
def test_without_time_or_when_asked_to_it_leaves_at_once(notice: Notice) -> None:
    assert decide(NoticeHeeder(), notice, at=0.0) is Heed.LEAVE


def test_before_a_save_was_measured_ten_seconds_are_reckoned_with() -> None:
    notice = Notice(source="GCP", exit_code=75, deadline_monotonic_s=30.0)
    heeder = NoticeHeeder()
    assert decide(heeder, notice, at=0.0, save_seconds=None) is Heed.SAVE
    assert decide(heeder, notice, at=9.0, save_seconds=None) is Heed.LEAVE
    assert decide(heeder, notice, at=9.0, save_seconds=1.0) is Heed.TRAIN


@pytest.mark.parametrize(
    ("save_seconds", "lead", "words"),
    [
        (1.9, Lead(source="aws", seconds=120.0), "A save takes 1.9 s, and aws says 120 s ahead that a machine goes."),
        (20.0, Lead(source="gcp", seconds=30.0), "only 30 s ahead that a machine goes: what was committed before may"),
        (1.9, None, "A save takes 1.9 s: whoever ends this process should send SIGTERM so long before."),
    ],
)
def test_what_a_notice_would_need_is_said(save_seconds: float, lead: Lead | None, words: str) -> None:
    assert words in what_a_notice_needs(save_seconds, lead)
