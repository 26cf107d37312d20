"""Preludes of a forked child for `dbr verify-resume`: trainers that are not exact on purpose, and a slow disk."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Mapping
from typing import Any

import torch


def lose_the_moments() -> None:
    """Resume as a trainer does that saves its weights alone."""
    from dreambooth_resume.training.optimizer import Optimizer

    real = Optimizer.load

    def load(self: Any, tensors: Mapping[str, torch.Tensor], scalars: Mapping[str, Any]) -> None:
        real(
            self, {name: torch.zeros_like(one) if "exp_avg" in name else one for name, one in tensors.items()}, scalars
        )

    Optimizer.load = load  # type: ignore[method-assign]


def compute_otherwise_each_time() -> None:
    """As a kernel that adds up in any order, only worse: by as much that two processes never agree by chance."""
    from diffusers import UNet2DConditionModel

    real, chance = UNet2DConditionModel.forward, torch.Generator()
    chance.seed()

    def forward(self: Any, *arguments: Any, **options: Any) -> Any:
        answer = real(self, *arguments, **options)[0]
        return (answer * (1.0 + 1e-3 * torch.rand(1, generator=chance)),)

    UNet2DConditionModel.forward = forward


def slow_disk() -> None:
    """A save takes as long as many steps on this disk, and one that waits is replaced by a newer one."""
    from dreambooth_resume.checkpoint.manager import CheckpointManager

    CheckpointManager.save_in_background = inspect.unwrap(CheckpointManager.save_in_background)  # type: ignore[method-assign]
    real = os.fsync

    def fsync(file: int) -> None:
        time.sleep(0.1)
        real(file)

    os.fsync = fsync
