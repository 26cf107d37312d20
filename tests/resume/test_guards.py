"""A number that isn't finite: back to the last good step, other samples, and the same bytes whatever is killed when."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from dreambooth_resume.data.plan import SKIP_STRIDE
from tests.resume.conftest import Undisturbed
from tests.resume.faults import fault
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests
from tests.resume.s3_home import S3Home

# The batch of step 3, counted from 0: it would make step 4, and nothing of it is ever saved.
POISONED: dict[str, Any] = {"faults": [fault("nan", step=3)]}


def adopts(home: Path) -> list[Any]:
    return [entry.body for entry in log_of(home).entries if entry.body.kind == "adopt"]


def test_a_nan_goes_back_to_the_last_checkpoint_and_trains_on_other_samples(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process = bench.run(home, **POISONED)
    assert (
        "Step 4: the loss is nan. Nothing of it was saved. Going back to step 2 (checkpoint-2) as attempt 2, for the "
        "first time of 3. Step 4 trains on other samples from now on, in every attempt." in process.output()
    )
    assert [adopt.going_back for adopt in adopts(home)] == [None, "guard-1-step-4"]
    (window,) = log_of(home).entries[-1].state.skipped
    assert (window.number, window.first, window.last) == (1, 3, 3)
    assert committed_steps(home) == [2, 4, 6]
    assert result_digests(home) != undisturbed()
    for path in home.glob("checkpoint-*/*.safetensors"):
        assert all((tensor == tensor).all() for tensor in load_file(path).values()), path
    status = bench.command(home, ["status", str(home)])
    assert status.wait() == 0
    assert "the loss is nan at step 4, so step 4 has other samples" in status.output()
    history = bench.command(home, ["history", str(home)])
    assert history.wait() == 0
    assert "rolled back" in history.output()
    assert "step 4: the loss is nan; went back to step 2" in history.output()


# Log entries: 1 adopt, 2 checkpoint of step 2, 3 the guard's adopt, 4 and 5 the checkpoints of steps 4 and 6.
CRASHES = [
    CrashPoint(call=call, path=path, when=when)
    for (call, path), when in itertools.product(
        [
            ("link", "log/00000003.json"),
            ("link", "log/00000004.json"),
            ("replace", "checkpoint-4-a2/trainer_state.json"),
        ],
        ["before", "after"],
    )
]


@pytest.mark.parametrize("crash", CRASHES, ids=str)
def test_a_kill_around_a_return_changes_no_byte(
    crash: CrashPoint, bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    assert bench.start(home, crash=crash, **POISONED).wait() == KILLED
    bench.run(home, **POISONED)
    assert sum(adopt.rolled_back is not None for adopt in adopts(home)) == 1
    assert result_digests(home) == undisturbed(**POISONED)


def test_a_kill_right_after_a_return_in_a_bucket_changes_no_byte(
    bench: Bench, undisturbed: Undisturbed, tmp_path: Path, s3_home: S3Home
) -> None:
    crash = CrashPoint(call="PUT", path="log/00000003.json", when="after")
    assert bench.start(tmp_path / "one", crash=crash, **POISONED, **s3_home.options()).wait() == KILLED
    bench.run(tmp_path / "another", **POISONED, **s3_home.options())
    assert log_of(s3_home.storage).highest_attempt == 3
    assert result_digests(s3_home.storage) == undisturbed(**POISONED)


def test_what_was_saved_when_does_not_decide_where_samples_are_skipped(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    bench.run(home, checkpointing_steps=3, **POISONED)
    assert result_digests(home) == undisturbed(**POISONED)


def test_before_the_first_checkpoint_it_goes_back_to_step_0(bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    process = bench.run(home, checkpointing_steps=5, **POISONED)
    assert "Going back to step 0 as attempt 2" in process.output()
    assert result_digests(home) == undisturbed(**POISONED)


def test_the_second_time_it_goes_back_before_what_led_there(bench: Bench, home: Path) -> None:
    faults = [fault("nan", step=4), fault("nan", step=4 + SKIP_STRIDE)]
    process = bench.run(home, faults=faults)
    assert "Going back to step 4 (checkpoint-4) as attempt 2, for the first time" in process.output()
    assert "Going back to step 0 as attempt 3, for the second time of 3. Steps 1 to 5 train on" in process.output()
    assert committed_steps(home) == [2, 4, 6]
    assert [entry.attempt for entry in log_of(home).entries if entry.body.kind == "checkpoint"] == [1, 1, 3, 3, 3]


def test_the_fourth_time_it_stops_with_the_reason(bench: Bench, home: Path) -> None:
    # A pair of pictures without a single good step.
    process = bench.start(home, faults=[{"kind": "nan", "timesteps": None}])
    assert process.wait() == 78
    assert (
        "Step 1: the loss is nan. This run has gone back 3 times already: step 1 (the loss is nan)" in process.output()
    )
    assert "lower --learning_rate" in process.output()
    assert [(one.first, one.last) for one in log_of(home).entries[-1].state.skipped] == [(0, 0)] * 3
    last = log_of(home).entries[-1].body
    assert (last.kind, last.exit_code, last.reason) == ("stopped", 78, "step 1: the loss is nan, after 3 returns")
