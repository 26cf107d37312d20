"""`--mixed_precision fp16`, with torch's own scaler, on the CPU: what it decides is part of the run."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

from tests.resume.conftest import Undisturbed
from tests.resume.faults import fault
from tests.resume.harness import KILLED, Bench, CrashPoint, result_digests

# Steps count from 1 where they are shown: the batch of step 3 here makes step 4.
FLOAT16 = {"mixed_precision": "fp16", "faults": [fault("overflow", step=3)]}


def state_of(home: Path, folder: str) -> dict[str, Any]:
    scalars: dict[str, Any] = json.loads((home / folder / "trainer_state.json").read_text())["scalars"]
    return scalars


def metrics_of(home: Path) -> list[dict[str, Any]]:
    lines = [line for path in sorted(home.glob("metrics/*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def test_an_overflow_is_a_step_without_an_update_and_halves_the_scale(bench: Bench, home: Path) -> None:
    bench.run(home, checkpointing_steps=1, **FLOAT16)
    scales = [state_of(home, f"checkpoint-{step}")["scaler_scale"] for step in range(1, 7)]
    trackers = [state_of(home, f"checkpoint-{step}")["scaler_growth_tracker"] for step in range(1, 7)]
    assert scales == [65536, 65536, 65536, 32768, 32768, 32768]
    assert trackers == [1, 2, 3, 0, 1, 2]
    weights = [(home / f"checkpoint-{step}/pytorch_lora_weights.safetensors").read_bytes() for step in range(1, 7)]
    assert [before == after for before, after in itertools.pairwise(weights)] == [
        False,
        False,
        True,
        False,
        False,
    ]
    norms = [line["grad_norm"] for line in metrics_of(home)]
    assert not math.isfinite(norms[3])
    # Of the true gradient: the scaled one is tens of thousands of times as long.
    assert all(norm < 100 for norm in [*norms[:3], *norms[4:]])


def test_killed_right_after_an_overflow_ends_in_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    # 1 adopt, 2 and 3 the checkpoints of steps 2 and 4; step 4 overflows, and step 5 is lost.
    crash = CrashPoint(call="link", path="log/00000003.json", when="after")
    assert bench.start(home, crash=crash, **FLOAT16).wait() == KILLED  # type: ignore[arg-type]
    assert state_of(home, "checkpoint-4")["scaler_scale"] == 32768
    bench.run(home, **FLOAT16)
    assert result_digests(home) == undisturbed(**FLOAT16)
    assert state_of(home, "checkpoint-6-a2")["scaler_growth_tracker"] == 2
