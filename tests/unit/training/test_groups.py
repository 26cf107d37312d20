"""Which parameters learn at which rate."""

from __future__ import annotations

import pytest
import torch

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.training.groups import parameter_groups

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]
NAMES = ("to_q.lora_A.weight", "to_q.lora_B.weight", "to_q.lora_magnitude_vector")
PARTS = {
    part: {f"{part}.{name}": torch.nn.Parameter(torch.zeros(2, 2)) for name in NAMES}
    for part in ("unet", "text_encoder", "text_encoder_2")
}


def resolved(typed: str) -> TrainOptions:
    return resolve(parse_train([*REQUIRED, *typed.split()]), recorded=None)


def rates(typed: str, *, step: int = 0, steps: int = 100) -> dict[str, float]:
    groups = parameter_groups(resolved(typed), PARTS, max_train_steps=steps)
    members = [name for group in groups for name in group.parameters]
    assert sorted(members) == sorted(name for part in PARTS.values() for name in part)
    return {group.name: group.schedule.at(step) for group in groups}


def test_without_options_each_part_is_a_group_with_the_scripts_rates() -> None:
    assert rates("") == {"unet": 1e-4, "text_encoder": 5e-6, "text_encoder_2": 5e-6}


def test_the_second_text_encoder_may_have_a_rate_of_its_own() -> None:
    found = rates("--train_text_encoder --text_encoder_lr 1e-5 --text_encoder_2_lr 2e-6")
    assert found == {"unet": 1e-4, "text_encoder": 1e-5, "text_encoder_2": 2e-6}


def test_loraplus_makes_the_matrices_b_faster_in_every_part() -> None:
    found = rates("--train_text_encoder --text_encoder_2_lr 1e-6 --loraplus_lr_ratio 16")
    assert found == pytest.approx(
        {
            "unet": 1e-4,
            "unet_lora_B": 16e-4,
            "text_encoder": 5e-6,
            "text_encoder_lora_B": 80e-6,
            "text_encoder_2": 1e-6,
            "text_encoder_2_lora_B": 16e-6,
        }
    )
    (faster,) = (
        group.parameters
        for group in parameter_groups(resolved("--loraplus_lr_ratio 2"), {"unet": PARTS["unet"]}, max_train_steps=9)
        if group.name == "unet_lora_B"
    )
    assert list(faster) == ["unet.to_q.lora_B.weight"]


def test_prodigy_has_the_denoisers_rate_everywhere() -> None:
    found = rates("--optimizer prodigy --learning_rate 1 --train_text_encoder --text_encoder_2_lr 0.5")
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize(("ratio", "steps", "warmup"), [(0.1, 100, 10), (0.29, 100, 29), (0.99, 10, 9), (0.05, 9, 0)])
def test_a_warm_up_as_a_part_of_the_run_is_so_many_steps(ratio: float, steps: int, warmup: int) -> None:
    options = resolved(f"--lr_scheduler constant_with_warmup --lr_warmup_ratio {ratio} --max_train_steps {steps}")
    assert options.optimization.warmup_steps(steps) == warmup
    (unet, *_) = parameter_groups(options, PARTS, max_train_steps=steps)
    assert unet.schedule.at(warmup) == 1e-4
    assert warmup == 0 or unet.schedule.at(warmup - 1) == pytest.approx(1e-4 * (warmup - 1) / warmup)
