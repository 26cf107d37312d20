"""What `--mixed_precision` means: the frozen model's type, autocast, and for float16 a loss scaler."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch
from accelerate import Accelerator
from torch.amp.grad_scaler import GradScaler

Precision = Literal["no", "fp16", "bf16"]

_WEIGHT_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def weight_dtype(precision: Precision) -> torch.dtype:
    """The type of everything that isn't trained. What is trained is float32 always."""
    return _WEIGHT_DTYPES[precision]


def accelerates_precision(precision: Precision) -> Literal["no", "bf16"]:
    """What accelerate is told. With fp16 it would make a scaler of its own, on a GPU only, that nobody could inject."""
    return "no" if precision == "fp16" else precision


def make_scaler(precision: Precision, device: torch.device) -> GradScaler | None:
    """The loss scaler that fp16 needs, with torch's settings, which are those of Diffusers' script.

    It begins at 65536, is halved at an overflow, and doubled after 2,000 steps without one.
    """
    return GradScaler(device.type) if precision == "fp16" else None


def autocast(accelerator: Accelerator, scaler: GradScaler | None) -> AbstractContextManager[None]:
    """Where the denoiser is run. A scaler means float16."""
    if scaler is None:
        return accelerator.autocast()  # type: ignore[no-any-return]
    return torch.autocast(accelerator.device.type, dtype=torch.float16)
