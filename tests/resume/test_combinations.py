"""Options that each have a test of their own, together: killed and resumed, every byte is an undisturbed run's."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, log_of, result_digests

PRIOR: dict[str, object] = {
    "with_prior_preservation": True,
    "class_prompt": "a photo of a robot",
    "num_class_images": 3,
    "prior_loss_weight": 0.5,
}
TEXT: dict[str, object] = {"train_text_encoder": True, "text_encoder_lr": 1e-3, "lora_dropout": 0.3}
ONE_AT_A_TIME: dict[str, object] = {"train_batch_size": 1, "gradient_accumulation_steps": 2}
VALIDATION: dict[str, object] = {
    "validation_prompt": "a photo of sks robot on the moon",
    "num_validation_images": 1,
    "validation_steps": 2,
}
VARIANTS: dict[str, dict[str, object]] = {
    "dora_prodigy_text_encoders": {
        **TEXT,
        "use_dora": True,
        "optimizer": "prodigy",
        "learning_rate": 1.0,
        "checkpointing_steps": 1,
    },
    "fp16_prior_text_encoders_min_snr_validation": {
        **PRIOR,
        **TEXT,
        **ONE_AT_A_TIME,
        **VALIDATION,
        "snr_gamma": 5.0,
        "mixed_precision": "fp16",
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_once_ends_in_the_same_bytes(name: str, bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    changed = VARIANTS[name]
    process = bench.start(home, **changed)  # type: ignore[arg-type]
    process.wait_until_durable(home)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    resumed = bench.run(home, **changed)
    assert log_of(home).highest_attempt == 2
    assert "Resuming" in resumed.output()
    assert "left out" not in resumed.output()  # no validation picture failed
    assert result_digests(home) == undisturbed(**changed)
