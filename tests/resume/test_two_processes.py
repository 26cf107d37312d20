"""Two real processes on one home: one trains, the other waits; a frozen one that wakes has lost and spoils nothing."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.resume.conftest import Undisturbed
from tests.resume.harness import Bench, log_of, result_digests, sha256

LONG = {"max_train_steps": 60, "checkpointing_steps": 4}


def test_frozen_attempt_that_wakes_is_fenced_and_spoils_nothing(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    first = bench.start(home, **LONG)
    first.wait_until_durable(home)
    first.wait_for_step(6)
    first.send(signal.SIGSTOP)
    second = bench.run(home, **LONG, take_over=True)
    assert "as attempt 2" in second.output()
    files = {path: sha256(path) for path in home.rglob("*") if path.is_file() and "0001" not in path.name}
    first.send(signal.SIGCONT)
    assert first.wait() == 79, first.output()
    assert "attempt 2 has taken this run over" in first.output()
    assert {path: sha256(path) for path in files} == files
    assert result_digests(home) == undisturbed(**LONG)


def test_second_start_waits_for_the_first_and_then_goes_on(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    first = bench.start(home, **LONG)
    first.wait_for_step(3)
    second = bench.start(home, **LONG)
    second.wait_for(lambda: "trains this run. Waiting up to 600 s" in second.output(), "waiting")
    first.send(signal.SIGTERM)
    assert first.wait() == 75
    assert second.wait() == 0, second.output()
    assert log_of(home).highest_attempt == 2
    assert result_digests(home) == undisturbed(**LONG)


def test_second_start_leaves_a_living_holder_alone(bench: Bench, home: Path) -> None:
    first = bench.start(home, **LONG)
    first.wait_for_step(3)
    first.send(signal.SIGSTOP)
    second = bench.start(home, **LONG, wait_for_holder=0.2)
    assert second.wait() == 75
    assert "attempt 1 (host " in second.output()
    assert "still trains the run" in second.output()
    assert log_of(home).highest_attempt == 1
    first.send(signal.SIGKILL)
    first.wait()


def test_two_first_starts_at_once_make_one_run(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    both = [bench.start(home, **LONG) for _ in range(2)]
    codes = sorted(process.wait() for process in both)
    # Either the second waited and found the run finished, or it met the other's run.json. Its command was right.
    assert codes in ([0, 0], [0, 75]), [process.output() for process in both]
    assert result_digests(home) == undisturbed(**LONG)
