"""What a run's machines took and cost: from the log, and from the last heartbeat of whoever was lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.runs.adoption import Wish, take_over
from dreambooth_resume.runs.entries import Price, Totals
from dreambooth_resume.runs.history import HistoryTotals, interruptions, read_history, totals_of
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.status import Status
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import TAKE_OVER, begin, machine
from tests.fakes.watched_run import record_run

SPOT = Price(per_hour=3.6, on_demand_per_hour=10.8)


def lost_after(storage: Storage, seconds: float, *, price: Price | None = SPOT) -> None:
    """An attempt that gave its last sign after so many seconds, and committed nothing."""
    name = f"gpu-{len(read_log(storage).entries)}"
    wish = Wish(max_train_steps=4, price=price)
    adopted = take_over(storage, wish, load=lambda _ref: None, process=machine(name), patience=TAKE_OVER)
    assert not isinstance(adopted, type(read_log(storage)))
    attempt = adopted.writer.attempt
    status = Status(
        attempt=attempt, counter=1, updated_at="2026-11-27T10:00:00+00:00", phase="training", step=0,
        max_train_steps=4, process=machine(name), machine_seconds=seconds,
    )  # fmt: skip
    storage.write(f"status/{attempt:04d}.json", [status.model_dump_json().encode()])


def totals(storage: Storage) -> HistoryTotals:
    return totals_of(read_history(storage), Totals())


def test_what_a_lost_attempt_took_is_in_the_next_ones_totals() -> None:
    storage = MemoryStorage()
    lost_after(storage, 1000.0)
    lost_after(storage, 500.0)
    begin(storage, "c")
    last = read_log(storage).entries[-1].state.totals
    assert (last.machine_seconds, last.cost) == (1500.0, 1.5)
    assert [attempt.machine_seconds for attempt in read_history(storage)] == [1000.0, 500.0, 0.0]


def test_what_it_cost_and_what_the_same_hours_on_demand_would_have() -> None:
    storage = MemoryStorage()
    lost_after(storage, 1000.0)
    lost_after(storage, 500.0, price=None)
    found = totals(storage)
    assert (found.machine_seconds, found.cost) == (1500.0, pytest.approx(1.0))
    assert found.on_demand_cost == pytest.approx(3.0)
    assert found.unpriced_seconds == 500.0


def test_without_any_price_nothing_is_said_of_costs() -> None:
    storage = MemoryStorage()
    lost_after(storage, 1000.0, price=None)
    assert (totals(storage).cost, totals(storage).on_demand_cost) == (None, None)


def test_homes_of_before_have_counted_nothing_and_go_on() -> None:
    storage = MemoryStorage()
    attempt = begin(storage)
    attempt.commit(1)
    entry = read_log(storage).entries[0]
    plain = entry.model_dump(mode="json")
    del plain["state"]["totals"]["machine_seconds"], plain["state"]["totals"]["cost"], plain["body"]["price"]
    assert type(entry).model_validate(plain) == entry


def test_interruptions_are_machines_lost_or_taken_back() -> None:
    storage = MemoryStorage()
    lost_after(storage, 1.0)
    begin(storage, "b").stop()
    begin(storage, "c")
    assert interruptions(read_log(storage)) == 2


def test_history_shows_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    lost_after(storage, 1000.0)
    assert main(["history", str(storage.root)]) == 0
    page = capsys.readouterr().out
    assert "16:40 of machine time: $1.00; the same hours on demand: $3.00, so 67 % was saved" in page
    assert "$1.00" in page.splitlines()[1]
