"""Prodigy: Adam that estimates its own step size d from how far the weights have come.

Source: Mishchenko and Defazio 2023, arXiv:2306.06101; the package prodigyopt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from prodigyopt import Prodigy

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.training.optimizers.base import (
    Built,
    ParameterGroup,
    all_parameters,
    torch_groups,
    zeros_in_one_piece,
)

_ESTIMATE = ("d", "d0", "d_denom", "d_hat", "d_max", "d_numerator", "k")


def build(groups: Sequence[ParameterGroup], options: OptimizationOptions) -> Built:
    """Prodigy with zero moments, `s` and the start values `p0` in float32, and its estimate in the parameter groups.

    Raises ValueError for groups whose learning rates differ: there is one estimate for all of them.
    """
    if len({group.schedule for group in groups}) > 1:
        raise ValueError("prodigy has one learning rate for all groups")
    optimizer: torch.optim.Optimizer = Prodigy(
        torch_groups(groups),
        lr=1.0,
        betas=(options.adam_beta1, options.adam_beta2),
        beta3=options.prodigy_beta3,
        eps=options.adam_epsilon,
        decouple=options.prodigy_decouple,
        use_bias_correction=options.prodigy_use_bias_correction,
        safeguard_warmup=options.prodigy_safeguard_warmup,
    )
    for torch_group in optimizer.param_groups:
        torch_group |= {"d_denom": 0.0, "d_hat": torch_group["d0"]}
    parameters = all_parameters(groups)
    for parameter in parameters:
        optimizer.state[parameter]["step"] = 0
    moments = ("exp_avg", "exp_avg_sq") if options.adam_beta1 > 0 else ("exp_avg_sq",)
    for name in (*moments, "p0", "s"):
        flat = name in ("p0", "s")
        shapes = [torch.Size([parameter.numel()]) if flat else parameter.shape for parameter in parameters]
        for parameter, zeros in zip(parameters, zeros_in_one_piece(shapes, like=parameters[0]), strict=True):
            optimizer.state[parameter][name] = zeros
    optimizer.register_step_pre_hook(_note_the_start)
    return Built(torch_optimizer=optimizer, group_state=_ESTIMATE, metrics={"prodigy_d": "d"})


def _note_the_start(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Take the parameters' values as the start, as long as there was no update: they may be loaded after the build.

    The package does so where it makes the state, which is here done already.
    """
    if optimizer.param_groups[0]["k"] == 0:
        for parameter, state in optimizer.state.items():
            state["p0"].copy_(parameter.detach().view(-1))
