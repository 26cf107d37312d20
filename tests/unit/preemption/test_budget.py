"""Budgets are notices to stop on purpose: saved for, ended with 76, restarted by nobody."""

from __future__ import annotations

import pytest

from dreambooth_resume.config.options.budget import BudgetOptions
from dreambooth_resume.preemption.budget import BudgetSource
from dreambooth_resume.preemption.watcher import Watcher, ending
from dreambooth_resume.runs.entries import Price, Totals
from dreambooth_resume.runs.meter import Meter

pytestmark = pytest.mark.quick


def source(limits: BudgetOptions, *, interruptions: int = 0, hours: float = 0.0, cost: float = 0.0) -> BudgetSource:
    totals = Totals(machine_seconds=hours * 3600.0, cost=cost)
    return BudgetSource(limits, interruptions=interruptions, totals=lambda: totals)


def said(source: BudgetSource) -> str:
    notice = source.notice()
    return "" if notice is None else notice.source


def test_without_a_budget_nothing_is_ever_spent() -> None:
    assert source(BudgetOptions(), interruptions=99, hours=99.0, cost=99.0).notice() is None


@pytest.mark.parametrize(
    ("limits", "hours", "cost", "interruptions", "words"),
    [
        (BudgetOptions(max_hours=2.5), 2.5, 0.0, 0, "2.50 hours, max_hours 2.5"),
        (BudgetOptions(max_cost=3.0), 0.0, 3.2, 0, "$3.20, max_cost 3"),
        (BudgetOptions(max_interruptions=2), 0.0, 0.0, 3, "3 interruptions, max_interruptions 2"),
    ],
)
def test_a_spent_budget_says_which_and_how_much(
    limits: BudgetOptions, hours: float, cost: float, interruptions: int, words: str
) -> None:
    spent = source(limits, hours=hours, cost=cost, interruptions=interruptions)
    assert words in said(spent)
    notice = Watcher([spent]).notice()
    assert notice is not None
    assert ending(notice, "").exit_code == 76


def test_just_below_it_goes_on() -> None:
    limits = BudgetOptions(max_hours=2.5, max_cost=3.0, max_interruptions=2)
    assert source(limits, hours=2.49, cost=2.99, interruptions=2).notice() is None


def test_the_meter_counts_from_the_start_of_the_process_on_top_of_what_the_run_has_had() -> None:
    now = 100.0
    meter = Meter(Price(per_hour=1.8), started_monotonic_s=40.0, monotonic=lambda: now)
    before = Totals(steps=7, machine_seconds=1000.0, cost=2.0)
    after = meter.on_top_of(before)
    assert (after.steps, after.machine_seconds, after.cost) == (7, 1060.0, 2.03)
    assert Meter(None, started_monotonic_s=40.0, monotonic=lambda: now).on_top_of(before).cost == 2.0
