"""What goes wrong in a step, made to go wrong in a child: a NaN, an overflow, too little memory.

A fault belongs to a batch, known by its timesteps, and not to a count of calls: like a picture that can't be trained on
it comes again whenever that batch does, after any kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreambooth_resume.data.random import Stream, generator

TRAIN_TIMESTEPS = 1000


def fault(kind: str, *, step: int, slots: Sequence[int] = (0, 1), seed: int = 7) -> dict[str, Any]:
    """`kind` happens whenever the model is given just these slots of `step` (which counts from 0).

    nan: what it answers is NaN. overflow: its answer is right and the gradient infinite. memory: there is too little.
    """
    draws = [generator(seed, Stream.TIMESTEP, step=step, slot=slot).integers(TRAIN_TIMESTEPS) for slot in slots]
    return {"kind": kind, "timesteps": [int(draw) for draw in draws]}


def install(faults: list[dict[str, Any]]) -> None:
    """Make the UNet of this process have these faults; one whose timesteps are None is there always."""
    import torch
    from diffusers import UNet2DConditionModel

    class _InfiniteGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * torch.inf

    real = UNet2DConditionModel.forward

    def forward(self: Any, sample: torch.Tensor, timestep: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        kinds = {one["kind"] for one in faults if one["timesteps"] in (None, timestep.tolist())}
        if "memory" in kinds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        answer = real(self, sample, timestep, *arguments, **options)[0]
        if "nan" in kinds:
            answer = answer * torch.nan
        if "overflow" in kinds:
            answer = _InfiniteGradient.apply(answer)
        return (answer,)

    UNet2DConditionModel.forward = forward
