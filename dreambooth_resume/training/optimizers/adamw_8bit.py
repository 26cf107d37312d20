"""bitsandbytes' AdamW, whose moments are 8 bits for each weight and a float32 for each block of 256.

Source: Dettmers et al. 2021, arXiv:2110.02861.
"""

from __future__ import annotations

from collections.abc import Sequence

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.training.optimizers.base import Built, ParameterGroup, torch_groups


def build(groups: Sequence[ParameterGroup], options: OptimizationOptions) -> Built:
    """AdamW8bit with its state made: per parameter uint8 `state1` and `state2` with `absmax1` and `absmax2`.

    The maps from 8 bits to a number, `qmap1` and `qmap2`, are the same for all. Parameters below 4,096 numbers have
    float32 `state1` and `state2` and nothing else.
    """
    with quiet_loading():
        from bitsandbytes.optim import AdamW8bit

    optimizer = AdamW8bit(
        torch_groups(groups),
        betas=(options.adam_beta1, options.adam_beta2),
        eps=options.adam_epsilon,
    )
    # What its own first step does before anything else; afterwards it finds a state and makes none.
    optimizer.check_overrides()
    for group_number, torch_group in enumerate(optimizer.param_groups):
        for number, parameter in enumerate(torch_group["params"]):
            optimizer.init_state(torch_group, parameter, group_number, number)
    return Built(torch_optimizer=optimizer, shared_state=("qmap1", "qmap2"))
