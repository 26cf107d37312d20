"""Too little memory in a step: the same samples in smaller micro-batches, from that step on, in later attempts too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.faults import fault
from tests.resume.harness import KILLED, Bench, CrashPoint, log_of, result_digests

# Two samples at once are too many in the step that would be shown as step 4, one at a time fits.
TIGHT: dict[str, Any] = {"faults": [fault("memory", step=3)]}


def test_memory_that_runs_out_halves_the_micro_batch_and_loses_no_step(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process = bench.run(home, **TIGHT)
    assert (
        "Step 4: out of memory with 2 samples at once (CUDA out of memory). Going on from this very step with 1 at "
        "once; a step keeps its 2 samples. Equivalent from here on" in process.output()
    )
    assert log_of(home).highest_attempt == 1
    smaller = log_of(home).entries[-1].state.smaller_micro_batch
    assert smaller is not None
    assert (smaller.size, smaller.from_step, smaller.attempt) == (1, 3, 1)
    status = bench.command(home, ["status", str(home)])
    assert status.wait() == 0
    assert "1 sample at once since step 4: attempt 1 had none for more" in status.output()
    # Rounded otherwise than both, and of the same samples.
    assert result_digests(home) != undisturbed()
    assert result_digests(home) != undisturbed(train_batch_size=1, gradient_accumulation_steps=2)


# Log entries: 1 adopt, 2 checkpoint of step 2, 3 that of step 3 (where memory ran out), 4 and 5 those of 4 and 6.
@pytest.mark.parametrize(
    "crash",
    [
        CrashPoint(call="replace", path="checkpoint-3/trainer_state.json"),
        CrashPoint(call="link", path="log/00000003.json", when="before"),
        CrashPoint(call="link", path="log/00000004.json", when="before"),
    ],
    ids=str,
)
def test_killed_afterwards_it_goes_on_with_what_fits_and_ends_in_the_same_bytes(
    crash: CrashPoint, bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    assert bench.start(home, crash=crash, **TIGHT).wait() == KILLED
    # On a busy machine a save may have taken the place of one that waited, so the numbers tell nothing for certain.
    is_known = any(entry.state.smaller_micro_batch is not None for entry in log_of(home).entries)
    resumed = bench.run(home, **TIGHT)
    assert result_digests(home) == undisturbed(**TIGHT)
    if is_known:
        assert "out of memory with 2 samples" not in resumed.output()
        assert "micro_batch_size 2 -> 1" in resumed.output()


def test_one_sample_at_a_time_is_too_much_so_it_saves_and_says_what_to_change(bench: Bench, home: Path) -> None:
    faults = [fault("memory", step=3), fault("memory", step=3, slots=[0])]
    process = bench.start(home, faults=faults)
    assert process.wait() == 78
    assert (
        "Step 4: out of memory with one sample at a time (CUDA out of memory). Step 3 is saved. The same command with "
        "--gradient_checkpointing (slower, same result) goes on from here. A new run needs less with --mixed_precision "
        "bf16, or a --resolution below 32, or a --rank below 4." in process.output()
    )
    last = log_of(home).entries[-1]
    assert (last.body.kind, last.body.exit_code, last.state.step) == ("stopped", 78, 3)
    bench.run(home, gradient_checkpointing=True)


def test_too_little_before_the_first_step_is_said_and_no_bug(bench: Bench, home: Path) -> None:
    process = bench.start(home, faults=[fault("encoder", step=0)])
    assert process.wait() == 78
    assert "Before the first step: out of memory twice (CUDA out of memory)." in process.output()
    assert "a bug" not in process.output()
    last = log_of(home).entries[-1]
    assert (last.body.kind, last.body.exit_code, last.state.step) == ("stopped", 78, 0)
    bench.run(home)
