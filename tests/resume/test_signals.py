"""Signals and `dbr stop`: the handler only sets a value, the step boundary saves, the exit code says who asked."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, committed_steps, log_of, result_digests, shown_step

LONG = {"max_train_steps": 400, "checkpointing_steps": 1000}
COME_BACK = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("number", [*COME_BACK, signal.SIGINT])
def test_a_signal_saves_at_the_next_step_boundary(number: signal.Signals, bench: Bench, home: Path) -> None:
    process = bench.start(home, **LONG)
    process.wait_for_step(3)
    process.send(number)
    code = process.wait()
    assert code == (76 if number == signal.SIGINT else 75), process.output()
    last = shown_step(process.output())
    assert committed_steps(home) == [last], "saved is the step that was just made"
    ending = log_of(home).last
    assert ending is not None
    assert (ending.body.kind, ending.body.exit_code, ending.body.reason) == ("stopped", code, number.name)
    assert f"{number.name}: step {last} of 400 is saved. The same command with --resume" in process.output()


def test_signalled_twice_in_its_life_ends_in_the_same_bytes(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    changed = {"max_train_steps": 30, "checkpointing_steps": 50}
    for step in (3, 9):
        process = bench.start(home, **changed)
        process.wait_for_step(step)
        process.send(signal.SIGTERM)
        assert process.wait() == 75, process.output()
    bench.run(home, **changed)
    assert result_digests(home) == undisturbed(**changed)


def test_said_twice_it_commits_and_leaves_out_the_rest(bench: Bench, home: Path) -> None:
    process = bench.start(home, **LONG)
    process.wait_for_step(3)
    process.send(signal.SIGSTOP)  # so that both have come when it looks
    process.send(signal.SIGTERM)
    process.send(signal.SIGUSR1)
    process.send(signal.SIGCONT)
    assert process.wait() == 75
    ending = log_of(home).last
    assert ending is not None
    assert ending.body.kind == "checkpoint"


def test_said_three_times_it_goes_at_once(bench: Bench, home: Path) -> None:
    process = bench.start(home, **LONG)
    process.wait_for_step(3)
    process.send(signal.SIGSTOP)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        process.send(number)
    process.send(signal.SIGCONT)
    assert process.wait() == 75
    assert "left without saving step" in process.output()
    # Nobody waited for the save that was begun; while the process ended it may still have landed, whole.
    assert committed_steps(home) in ([], [shown_step(process.output())])


def test_a_signal_while_it_gets_ready_leaves_at_once_and_loses_nothing(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process = bench.start(home)
    process.wait_for(lambda: "encoding" in process.output(), "encoding")
    process.send(signal.SIGTERM)
    assert process.wait() == 75, process.output()
    ending = log_of(home).last
    assert ending is not None
    assert (ending.body.kind, ending.body.exit_code) == ("stopped", 75)
    assert "nothing was lost. The same command with --resume latest goes on." in process.output()
    bench.run(home)
    assert result_digests(home) == undisturbed()


def test_dbr_stop_ends_it_on_purpose_and_is_heard_once(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    process = bench.start(home, **LONG)
    process.wait_for_step(2)
    stop = bench.command(home, ["stop", str(home)])
    assert stop.wait() == 0, stop.output()
    assert process.wait() == 76, process.output()
    assert "dbr stop by" in process.output()
    assert list((home / "control").glob("*")) == []
    again = bench.start(home, **LONG)
    again.wait_for_step(shown_step(process.output()) + 2)
    again.send(signal.SIGKILL)
    assert again.wait() == KILLED
