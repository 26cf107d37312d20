"""Loss, noise and optimizer otherwise than by default: killed and resumed, every byte is an undisturbed run's."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.home import STATE_TENSORS_NAME, WEIGHTS_NAME
from tests.resume.conftest import Undisturbed
from tests.resume.faults import fault
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests

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
    process.wait_until_durable(home)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    resumed = bench.run(home, **changed)
    assert log_of(home).highest_attempt == 2
    assert "Resuming" in resumed.output()
    assert result_digests(home) == undisturbed(**changed)


def test_an_average_survives_a_kill_too_little_memory_and_a_return(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    # Steps 3 and 5: two samples at once are too many in the first, the loss is NaN in the second.
    options: dict[str, object] = {
        "use_ema": True,
        "ema_decay": 0.6,
        "validation_prompt": "a red toy",
        "num_validation_images": 1,
        "validation_steps": 2,
        "faults": [fault("memory", step=2), fault("nan", step=4, slots=[0])],
    }
    # Log entries: 1 adopt, 2 and 3 the checkpoints of steps 2 and 3 (where memory ran out), 4 that of step 4.
    crash = CrashPoint(call="link", path="log/00000004.json")
    assert bench.start(home, crash=crash, **options).wait() == KILLED  # type: ignore[arg-type]
    resumed = bench.run(home, **options)
    assert len(log_of(home).entries[-1].state.skipped) == 1
    assert "left out" not in resumed.output()
    assert result_digests(home) == undisturbed(**options)

    log = log_of(home)
    assert log.finished is not None
    folder = home / ref_of(log, log.finished.checkpoint).folder
    result, state = load_file(folder / WEIGHTS_NAME), load_file(folder / STATE_TENSORS_NAME)
    raw = {name.removeprefix("lora.") for name in state if name.startswith("lora.")}
    assert len(raw) == len(result), "the weights that train are kept beside the average"
    assert not any(name.startswith("ema.") for name in state), "the average is the LoRA's file, and stored once"
    first = min(raw)
    exported = "unet." + first.replace(".lora_A.weight", ".lora.down.weight")
    assert not (state[f"lora.{first}"] == result[exported]).all()


def test_epochs_that_end_are_saved_beside_the_others(bench: Bench, home: Path) -> None:
    # Three pictures and two a step: epochs end in steps 2, 3, 5 and 6.
    bench.run(home, checkpointing_steps=4, save_every_n_epochs=2)
    assert committed_steps(home) == [3, 4, 6]
