"""A budget that is spent saves and stops; raised, the run goes on to the bytes of one that had none."""

from __future__ import annotations

import signal
from pathlib import Path

from dreambooth_resume.runs.history import read_history
from tests.resume.conftest import Undisturbed
from tests.resume.harness import Bench, committed_steps, log_of, result_digests, shown_step, storage_of

LENGTH = {"max_train_steps": 60, "checkpointing_steps": 20}


def test_spent_budgets_stop_the_run_and_raised_it_ends_in_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    killed = bench.start(home, **LENGTH, max_interruptions=0, price_per_hour=3.6)
    killed.wait_until_durable(home)
    killed.send(signal.SIGKILL)
    killed.wait()
    refused = bench.start(home, **LENGTH)
    assert refused.wait() == 76, refused.output()
    assert "the budget is spent (1 interruptions, max_interruptions 0; raise it to go on)" in refused.output()
    # An attempt of seconds: $0.001 an hour and a second.
    spent = bench.start(home, **LENGTH, max_interruptions="none", max_cost=0.001, price_per_hour=3.6)
    assert spent.wait() == 76, spent.output()
    assert "max_cost 0.001; raise it to go on" in spent.output()
    ending = log_of(home).last
    assert ending is not None
    assert (ending.body.kind, ending.body.exit_code) == ("stopped", 76)
    assert "max_cost 0.001" in ending.body.reason
    bench.run(home, **LENGTH, max_cost="none", price_per_hour=3.6)
    assert result_digests(home)["result"] == undisturbed(**LENGTH)["result"]
    attempts = read_history(storage_of(home))
    assert all(attempt.machine_seconds > 0 for attempt in attempts)
    assert attempts[-1].price is not None


def test_hours_end_it_after_a_save(bench: Bench, home: Path) -> None:
    process = bench.start(home, max_train_steps=100_000, checkpointing_steps=100_000, max_hours=0.0012)
    assert process.wait() == 76, process.output()
    last = shown_step(process.output())
    assert committed_steps(home) == ([last] if last > 0 else []), "a slow machine is told before its first step"
    assert "max_hours 0.0012" in process.output()


def test_dollars_without_a_price_are_refused(bench: Bench, home: Path) -> None:
    process = bench.start(home, max_cost=5)
    assert process.wait() == 2, process.output()
    assert "--price_per_hour" in process.output()
    assert not home.exists()
