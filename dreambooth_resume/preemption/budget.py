"""Budgets as a source of notices: hours, dollars and interruptions of a run over all its attempts."""

from __future__ import annotations

from collections.abc import Callable

from dreambooth_resume.config.options.budget import BudgetOptions
from dreambooth_resume.preemption.signals import ON_PURPOSE
from dreambooth_resume.runs.entries import Totals
from dreambooth_resume.runs.notice import Notice


class BudgetSource:
    """A notice to stop on purpose once a budget is spent: the run saves, ends with 76, and nobody restarts it."""

    def __init__(self, limits: BudgetOptions, *, interruptions: int, totals: Callable[[], Totals]) -> None:
        """`totals` are those of the run now, this attempt's time included."""
        self._limits = limits
        self._interruptions = interruptions
        self._totals = totals

    def notice(self) -> Notice | None:
        limits = self._limits
        if limits.max_interruptions is not None and self._interruptions > limits.max_interruptions:
            return _spent(f"max_interruptions {limits.max_interruptions}", f"{self._interruptions} interruptions")
        if limits.max_hours is None and limits.max_cost is None:
            return None
        totals = self._totals()
        hours = totals.machine_seconds / 3600.0
        if limits.max_hours is not None and hours >= limits.max_hours:
            return _spent(f"max_hours {limits.max_hours:g}", f"{hours:.2f} hours")
        if limits.max_cost is not None and totals.cost >= limits.max_cost:
            return _spent(f"max_cost {limits.max_cost:g}", f"${totals.cost:.2f}")
        return None


def _spent(limit: str, spent: str) -> Notice:
    source = f"the budget is spent ({spent}, {limit}; raise it to go on)"
    return Notice(source=source, exit_code=ON_PURPOSE, is_budget=True)
