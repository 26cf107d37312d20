"""Schedule-free AdamW: gradients are taken at y, between fast weights z and their average x, which is the result.

Source: Defazio et al. 2024, arXiv:2405.15682; the package schedulefree. The parameters hold y from the first update to
the last: the package's `eval()` and `train()`, which turn y into x in place and back, would not give back the same
bits. x is computed aside instead, where it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from schedulefree import AdamWScheduleFree

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.training.optimizers.base import (
    Built,
    ParameterGroup,
    all_parameters,
    torch_groups,
    zeros_in_one_piece,
)


def build(groups: Sequence[ParameterGroup], options: OptimizationOptions) -> Built:
    """With float32 `z`, equal to the parameters, and a zero `exp_avg_sq`; its counters are in the parameter groups."""
    beta1 = options.adam_beta1
    optimizer = AdamWScheduleFree(
        torch_groups(groups), lr=1.0, betas=(beta1, options.adam_beta2), eps=options.adam_epsilon
    )
    parameters = all_parameters(groups)
    shapes = [parameter.shape for parameter in parameters]
    for name in ("z", "exp_avg_sq"):
        for parameter, zeros in zip(parameters, zeros_in_one_piece(shapes, like=parameters[0]), strict=True):
            optimizer.state[parameter][name] = zeros.copy_(parameter.detach()) if name == "z" else zeros
    for torch_group in optimizer.param_groups:
        # Not by `train()`, which would take the parameters for x.
        torch_group["train_mode"] = True
    optimizer.register_step_pre_hook(_note_the_start)
    return Built(
        torch_optimizer=optimizer, group_state=("k", "lr_max", "weight_sum"), averages=partial(_averages, beta1)
    )


def _averages(
    beta1: float, parameters: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """x = y + (1 - 1 / beta1) (z - y), in new tensors."""
    return {name: torch.lerp(y, state[f"z.{name}"], 1 - 1 / beta1) for name, y in parameters.items()}


def _note_the_start(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Begin z at the parameters' values as long as there was no update: they may be loaded after the build."""
    if optimizer.param_groups[0]["k"] == 0:
        for parameter, state in optimizer.state.items():
            state["z"].copy_(parameter.detach())
