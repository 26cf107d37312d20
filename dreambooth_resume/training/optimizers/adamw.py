"""torch's AdamW."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.training.optimizers.base import (
    Built,
    ParameterGroup,
    all_parameters,
    torch_groups,
    zeros_in_one_piece,
)


def build(groups: Sequence[ParameterGroup], options: OptimizationOptions) -> Built:
    """AdamW with zero moments: float32 `exp_avg` and `exp_avg_sq` of a parameter's shape, and a float32 `step`."""
    parameters = all_parameters(groups)
    # Fused: one kernel for all parameters instead of ten small operations for each, on CPUs and GPUs alike.
    optimizer = torch.optim.AdamW(
        torch_groups(groups),
        lr=0.0,
        betas=(options.adam_beta1, options.adam_beta2),
        eps=options.adam_epsilon,
        fused=all(parameter.device.type in ("cpu", "cuda") for parameter in parameters),
    )
    for name in ("exp_avg", "exp_avg_sq", "step"):
        shapes = [torch.Size() if name == "step" else parameter.shape for parameter in parameters]
        for parameter, zeros in zip(parameters, zeros_in_one_piece(shapes, like=parameters[0]), strict=True):
            optimizer.state[parameter][name] = zeros
    return Built(torch_optimizer=optimizer)
