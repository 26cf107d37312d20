"""What an attempt has had of its machine, and what that costs, for budgets and the history."""

from __future__ import annotations

import time
from collections.abc import Callable

from dreambooth_resume.runs.entries import Price, Totals


class Meter:
    """Runs from the start of an attempt's process, since that is what a machine is paid for: loading counts."""

    def __init__(
        self,
        price: Price | None = None,
        *,
        started_monotonic_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.price = price
        self._monotonic = monotonic
        self._started = monotonic() if started_monotonic_s is None else started_monotonic_s

    @property
    def seconds(self) -> float:
        return max(0.0, self._monotonic() - self._started)

    def on_top_of(self, adopted: Totals) -> Totals:
        """The run's totals now; `adopted` are those of this attempt's adopt entry."""
        return with_machine(adopted, self.seconds, self.price)


def with_machine(totals: Totals, seconds: float, price: Price | None) -> Totals:
    """`totals` with so many seconds of a machine more; hours of an unknown price cost nothing that we know of."""
    cost = seconds / 3600.0 * price.per_hour if price is not None else 0.0
    return totals.model_copy(
        update={
            "machine_seconds": round(totals.machine_seconds + seconds, 3),
            "cost": round(totals.cost + cost, 6),
        }
    )
