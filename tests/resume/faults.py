"""What goes wrong in a step, made to go wrong in a child: a NaN, an overflow, too little memory, a driver that hangs.

A fault belongs to a batch, known by its timesteps, and not to a count of calls: like a picture that can't be trained on
it comes again whenever that batch does, after any kill.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.storage.local import LocalStorage

TRAIN_TIMESTEPS = 1000


def fault(kind: str, *, step: int, slots: Sequence[int] = (0, 1), seed: int = 7, saved: int = 0) -> dict[str, Any]:
    """`kind` happens whenever the model is given just these slots of `step` (which counts from 0).

    nan: what it answers is NaN. overflow: its answer is right and the gradient infinite. memory: there is too little.
    encoder: the VAE has too little, always. hang: the process stops, as by SIGSTOP.
    loading: too little in process 0, once, when the denoiser is loaded.
    crash: a SIGSEGV, once the home (a folder) holds a commit of step `saved`.
    """
    draws = [generator(seed, Stream.TIMESTEP, step=step, slot=slot).integers(TRAIN_TIMESTEPS) for slot in slots]
    return {"kind": kind, "timesteps": [int(draw) for draw in draws], "saved": saved}


def install(faults: list[dict[str, Any]]) -> None:
    """Make the UNet of this process have these faults; one whose timesteps are None is there always."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from dreambooth_resume.training import build, memory

    class _InfiniteGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * torch.inf

    real = UNet2DConditionModel.forward

    def forward(self: Any, sample: torch.Tensor, timestep: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        met = {one["kind"]: one for one in faults if one["timesteps"] in (None, timestep.tolist())}
        kinds = met.keys()
        if "crash" in kinds:
            _crash(saved=met["crash"]["saved"])
        if "hang" in kinds:
            os.kill(os.getpid(), signal.SIGSTOP)
        if "memory" in kinds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        answer = real(self, sample, timestep, *arguments, **options)[0]
        if "nan" in kinds:
            answer = answer * torch.nan
        if "overflow" in kinds:
            answer = _InfiniteGradient.apply(answer)
        return (answer,)

    UNet2DConditionModel.forward = forward
    if any(one["kind"] == "loading" for one in faults):
        build.trainable = _once_without_memory(build.trainable)
        memory.PAUSE_SECONDS = 0.1
    if any(one["kind"] == "encoder" for one in faults):
        AutoencoderKL.encode = _without_memory
        memory.PAUSE_SECONDS = 0.1


def _once_without_memory(real: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    errors = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")]

    def trainable(*arguments: Any, **options: Any) -> Any:
        if errors and multiprocessing.parent_process() is None:
            raise errors.pop()
        return real(*arguments, **options)

    return trainable


def _without_memory(*_: Any, **__: Any) -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


_SAVED_SECONDS = 60.0


def _crash(*, saved: int) -> None:
    """What is still on its way to the home would otherwise make it a matter of timing where the run stands then."""
    home = LocalStorage(Path(os.environ["DBR_TEST_HOME"]))
    deadline = time.monotonic() + _SAVED_SECONDS
    while (last := read_log(home).last) is None or last.state.step < saved:
        assert time.monotonic() < deadline, f"step {saved} was never committed"
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGSEGV)
