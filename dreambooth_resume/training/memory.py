"""What a step's memory is about: giving back what nobody uses."""

from __future__ import annotations

import gc

import torch


def release() -> None:
    """Give back what a failed step or attempt left behind: tensors in cycles, and blocks that torch keeps for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
