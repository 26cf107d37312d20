"""The pivot: from that step on the text encoders' parameters and moments stay, with every optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.training.groups import parameter_groups
from dreambooth_resume.training.optimizer import Optimizer
from dreambooth_resume.training.optimizers.base import ParameterGroup
from tests.unit.training.test_groups import PARTS, resolved

KINDS: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "AdamW8bit": {"use_8bit_adam": True},
    "prodigy": {"optimizer": "prodigy"},
    "Lion": {"optimizer": "Lion"},
    "Adafactor": {"optimizer": "Adafactor"},
    "AdamWScheduleFree": {"optimizer": "AdamWScheduleFree"},
}
PIVOT = 2


def updated(optimizer: Optimizer, step: int) -> None:
    """One update with gradients for whatever is to get one."""
    optimizer.choose_what_trains(step)
    loss = torch.zeros(())
    for number, parameter in enumerate(optimizer.parameters.values()):
        loss = loss + ((parameter - 0.1 * (number + step + 1)) ** 2).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.set_rates(step)
    optimizer.torch_optimizer.step()
    optimizer.torch_optimizer.zero_grad(set_to_none=True)


def copied(tensors: dict[str, torch.Tensor], word: str) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if word in name}


@pytest.mark.parametrize("kind", KINDS)
def test_behind_it_nothing_of_the_text_encoders_changes_and_the_denoiser_learns_on(kind: str) -> None:
    options = OptimizationOptions(adam_weight_decay=0.1, adam_weight_decay_text_encoder=0.1, **KINDS[kind])
    rate = 1.0 if kind == "prodigy" else 0.01
    schedule = parameter_groups(resolved(f"--learning_rate {rate}"), PARTS, max_train_steps=9)[0].schedule
    groups = [
        ParameterGroup(
            name=part,
            parameters={f"{part}.a": torch.nn.Parameter(torch.full((4, 4), 0.5))},
            schedule=schedule,
            weight_decay=0.1,
            pivot_step=None if part == "unet" else PIVOT,
        )
        for part in ("unet", "text_encoder")
    ]
    optimizer = Optimizer(groups, options)
    seen = []
    for step in range(4):
        updated(optimizer, step)
        tensors = {**optimizer.parameters, **optimizer.tensors()}
        seen.append((copied(tensors, "text_encoder"), copied(tensors, "unet")))
    text, unet = ([one[place] for one in seen] for place in (0, 1))
    assert not torch.equal(text[0]["text_encoder.a"], text[1]["text_encoder.a"])
    for name in text[1]:
        assert torch.equal(text[1][name], text[2][name]), name
        assert torch.equal(text[1][name], text[3][name]), name
    assert not torch.equal(unet[2]["unet.a"], unet[3]["unet.a"])
    assert [optimizer.rates(step)["text_encoder"] for step in (1, 2)] == [rate, 0.0]


def test_only_the_text_encoders_groups_have_it_and_only_for_a_part_of_the_run() -> None:
    def pivots(typed: str) -> dict[str, int | None]:
        return {group.name: group.pivot_step for group in parameter_groups(resolved(typed), PARTS, max_train_steps=100)}

    assert set(pivots("--train_text_encoder").values()) == {None}
    found = pivots("--train_text_encoder --train_text_encoder_frac 0.25 --loraplus_lr_ratio 2")
    assert {name: pivot for name, pivot in found.items() if name.startswith("unet")} == {
        "unet": None,
        "unet_lora_B": None,
    }
    assert {pivot for name, pivot in found.items() if name.startswith("text")} == {25}
