"""Lion: steps by the sign of a mean of gradients, with one moment.

Source: Chen et al. 2023, arXiv:2302.06675; the package lion-pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lion_pytorch import Lion

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.training.optimizers.base import (
    Built,
    ParameterGroup,
    all_parameters,
    torch_groups,
    zeros_in_one_piece,
)


def build(groups: Sequence[ParameterGroup], options: OptimizationOptions) -> Built:
    """Lion with a zero moment: float32 `exp_avg` of a parameter's shape."""
    optimizer: torch.optim.Optimizer = Lion(torch_groups(groups), betas=(options.adam_beta1, options.lion_beta2))
    parameters = all_parameters(groups)
    shapes = [parameter.shape for parameter in parameters]
    for parameter, zeros in zip(parameters, zeros_in_one_piece(shapes, like=parameters[0]), strict=True):
        optimizer.state[parameter]["exp_avg"] = zeros
    return Built(torch_optimizer=optimizer)
