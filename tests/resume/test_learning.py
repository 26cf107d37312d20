"""Loss, noise and optimizer otherwise than by default: killed and resumed, every byte is an undisturbed run's."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, committed_steps, log_of, result_digests

TEXT: dict[str, object] = {"train_text_encoder": True, "text_encoder_lr": 1e-3, "text_encoder_2_lr": 5e-4}
VARIANTS: dict[str, dict[str, object]] = {
    "lion_loraplus_text_encoders": {
        **TEXT,
        "optimizer": "Lion",
        "loraplus_lr_ratio": 4,
        "lora_dropout": 0.2,
        "lr_scheduler": "linear",
        "lr_warmup_ratio": 0.3,
        "weighting_scheme": "logit_normal",
    },
    "adafactor_dora": {"optimizer": "Adafactor", "use_dora": True, "loss_type": "smooth_l1"},
    "schedule_free_text_encoders": {
        **TEXT,
        "optimizer": "AdamWScheduleFree",
        "lr_scheduler": "constant_with_warmup",
        "lr_warmup_steps": 2,
        "validation_prompt": "a red toy",
        "num_validation_images": 1,
        "validation_steps": 2,
    },
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


def test_epochs_that_end_are_saved_beside_the_others(bench: Bench, home: Path) -> None:
    # Three pictures and two a step: epochs end in steps 2, 3, 5 and 6.
    bench.run(home, checkpointing_steps=4, save_every_n_epochs=2)
    assert committed_steps(home) == [3, 4, 6]
