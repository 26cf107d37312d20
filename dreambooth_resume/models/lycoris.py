"""LoHa and LoKr: adapters whose change of a weight is a product of other kinds, by peft's layers of these names.

A LoHa is the elementwise product of two LoRAs (Hyeon-Woo et al. 2022, arXiv:2108.06098), a LoKr the Kronecker product
of a small matrix and a larger one, which is whole or a LoRA itself (Edalati et al. 2022, arXiv:2212.10650). Shapes and
names are those of LyCORIS (Yeh et al. 2024, arXiv:2309.14859), which kohya's scripts, ComfyUI and AUTOMATIC1111 read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dreambooth_resume.models.lora_layers import LayerSize, LoraSpec, alpha_pattern, rank_pattern
from dreambooth_resume.models.quiet import quiet_loading

if TYPE_CHECKING:
    from peft import LoHaConfig, LoKrConfig

HADA_ENDS = (".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b")
LOKR_ENDS = (".lokr_w1", ".lokr_w2", ".lokr_w2_a", ".lokr_w2_b")
"""What the parameters' names end in, here and in every program."""

# In training peft passes a layer over unless torch.rand(1) is above this, and that is 0 once in 16 million draws.
_NEVER_LEFT_OUT = -1.0
_STARTS_AT = {".hada_w1_a": 0.1, ".hada_w1_b": 1.0, ".hada_w2_b": 1.0}


def peft_config(spec: LoraSpec, targets: tuple[str, ...], sizes: Mapping[str, LayerSize]) -> LoHaConfig | LoKrConfig:
    """peft's configuration of the adapter on these layers. Raises ValueError for a plain LoRA."""
    with quiet_loading():
        from peft import LoHaConfig, LoKrConfig

    if spec.kind == "loha":
        config: LoHaConfig | LoKrConfig = LoHaConfig()
    elif spec.kind == "lokr":
        config = LoKrConfig(decompose_factor=spec.factor)
    else:
        raise ValueError(f"a {spec.kind} is none of LyCORIS'")
    config.r = spec.rank
    # peft calls it an int, and computes alpha / r.
    config.alpha = spec.alpha
    config.module_dropout = _NEVER_LEFT_OUT
    config.target_modules = set(targets)
    config.rank_pattern = dict(rank_pattern(sizes, spec.rank))
    config.alpha_pattern = dict(alpha_pattern(sizes, spec.alpha))
    return config


def start_deviation(name: str, shape: tuple[int, ...]) -> float | None:
    """Standard deviation of the matrix' start values; None for the one that starts at zero: a fresh adapter is idle.

    LyCORIS' own, on which its users' learning rates rest: a LoHa's are fixed, a LoKr's are those of a linear layer
    (Kaiming), with normal numbers in place of uniform ones of the same spread.
    """
    end = f".{name.rpartition('.')[2]}"
    if end in (".lokr_w1", ".lokr_w2_a"):
        return 1 / math.sqrt(3 * shape[1])
    return _STARTS_AT.get(end)
