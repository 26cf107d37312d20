"""Adafactor: squared gradients kept as a mean for each row and one for each column of a matrix.

Source: Shazeer and Stern 2018, arXiv:1804.04235; transformers' class, with the learning rate of our schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.training.optimizers.base import (
    Built,
    ParameterGroup,
    all_parameters,
    torch_groups,
    zeros_in_one_piece,
)


def build(groups: Sequence[ParameterGroup], options: OptimizationOptions) -> Built:  # noqa: ARG001
    """Adafactor with zero means: `exp_avg_sq_row` and `exp_avg_sq_col` of a matrix, `exp_avg_sq` of a vector.

    Its own schedule (`relative_step`) and its scaling of steps by the weights' size are off: B starts at zero. There is
    nothing to choose: updates above a mean square of 1 are scaled down, as in the paper.
    """
    with quiet_loading():
        from transformers.optimization import Adafactor

    optimizer: torch.optim.Optimizer = Adafactor(
        torch_groups(groups), lr=1.0, scale_parameter=False, relative_step=False, warmup_init=False
    )
    parameters = all_parameters(groups)
    for parameter in parameters:
        optimizer.state[parameter]["step"] = 0
    for name in ("exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq"):
        shapes = {parameter: _shape(name, parameter.shape) for parameter in parameters}
        having = {parameter: shape for parameter, shape in shapes.items() if shape is not None}
        for parameter, zeros in zip(having, zeros_in_one_piece(having.values(), like=parameters[0]), strict=True):
            optimizer.state[parameter][name] = zeros
    optimizer.register_step_post_hook(_drop_sizes)
    return Built(torch_optimizer=optimizer)


def _shape(name: str, shape: torch.Size) -> torch.Size | None:
    """The shape of a parameter's state of this name; None if it has none."""
    is_factored = len(shape) > 1
    if name == "exp_avg_sq":
        return None if is_factored else shape
    if not is_factored:
        return None
    return shape[:-1] if name == "exp_avg_sq_row" else torch.Size((*shape[:-2], *shape[-1:]))


def _drop_sizes(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """The weights' size is measured anew in each update, into another tensor: nothing of a state."""
    for state in optimizer.state.values():
        state.pop("RMS", None)
