"""Loss, noise and optimizer otherwise than by default: killed and resumed, every byte is an undisturbed run's."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, log_of, result_digests

VARIANTS: dict[str, dict[str, object]] = {
    "huber_debiased_offset_perturbation_bias": {
        "loss_type": "huber",
        "debiased_estimation_loss": True,
        "noise_offset": 0.1,
        "input_perturbation": 0.1,
        "min_timestep": 50,
        "timestep_bias_strategy": "later",
        "timestep_bias_multiplier": 4,
        "dataloader_num_workers": 1,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_once_ends_in_the_same_bytes(name: str, bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    changed = VARIANTS[name]
    process = bench.start(home, **changed)  # type: ignore[arg-type]
    process.wait_for_step(3)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    resumed = bench.run(home, **changed)
    assert log_of(home).highest_attempt == 2
    assert "Resuming" in resumed.output()
    assert result_digests(home) == undisturbed(**changed)
