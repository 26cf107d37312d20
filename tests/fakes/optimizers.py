"""Optimizers over given parameters, as a run has them without any option."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.training.optimizer import Optimizer
from dreambooth_resume.training.optimizers.base import ParameterGroup
from dreambooth_resume.training.schedule import LearningRateSchedule


def constant(rate: float) -> LearningRateSchedule:
    return LearningRateSchedule(name="constant", peak=rate, warmup_steps=0, total_steps=1)


def one_group(
    parameters: Mapping[str, torch.nn.Parameter],
    options: OptimizationOptions | None = None,
    *,
    schedule: LearningRateSchedule | None = None,
) -> Optimizer:
    """All parameters in a group called unet; at the script's default rate unless a schedule is given."""
    options = options or OptimizationOptions()
    group = ParameterGroup(
        name="unet",
        parameters=parameters,
        schedule=schedule or constant(options.learning_rate),
        weight_decay=options.adam_weight_decay,
    )
    return Optimizer((group,), options)
