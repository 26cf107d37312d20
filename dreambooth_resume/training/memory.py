"""When the device has too little memory: the same samples in smaller micro-batches, and what to change after that.

B stays: a step's gradient is the mean over the same samples, only summed in more parts. That rounds otherwise, so the
result is equivalent, not exact. It is kept in the log, and later attempts begin with the smaller micro-batches.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.batch import Batch
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.runs.entries import SmallerMicroBatch

Made = TypeVar("Made")

PAUSE_SECONDS = 30.0
"""What holds a device's memory when an attempt begins may be a process of the attempt before, which is ending."""

# torch raises OutOfMemoryError for its own allocations on a GPU alone.
_WORDS = ("CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


@dataclass(kw_only=True)
class Portions:
    """How many of a step's samples are computed at once, and how that is changed."""

    size: int
    effective_batch: int
    batches_of: Callable[[int], Callable[[int], Batch]]
    """A micro-batch size -> what makes a step's batch in such micro-batches."""
    device_memory_bytes: int | None
    """None where nobody can say how much there is for training: on a CPU."""
    advice: str
    """What to change when there is nothing left to halve."""

    def halve(self) -> bool:
        """Go on with the greatest size up to the half that divides B; False at 1."""
        if self.size == 1:
            return False
        self.size = next(size for size in range(self.size // 2, 0, -1) if self.effective_batch % size == 0)
        return True


def is_out_of_memory(error: RuntimeError) -> bool:
    """The device, or a library that computes on it, had too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _WORDS)


def with_enough_memory(
    make: Callable[[], Made], options: TrainOptions, *, tell: Callable[[str], None], wait: Callable[[float], None]
) -> Made:
    """What `make` gives, which loads models, encodes and makes class pictures.

    Where the device has too little for it, once more after PAUSE_SECONDS. Then RefusedToGoOn: another start on this
    device would end the same way.
    """
    try:
        return make()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        told = str(error).split(". ")[0]
    # Not in the handler: the error's traceback holds what was loaded.
    release()
    tell(f"Out of memory before the first step ({told}). Once more in {PAUSE_SECONDS:.0f} s.")
    wait(PAUSE_SECONDS)
    try:
        return make()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise RefusedToGoOn(_too_little(str(error).split(". ")[0], options)) from error


def _too_little(told: str, options: TrainOptions) -> str:
    makes_class_pictures = options.prior.with_prior_preservation
    class_pictures = " A smaller --sample_batch_size makes class pictures in less." if makes_class_pictures else ""
    return (
        f"Before the first step: out of memory twice ({told}). What was encoded so far is kept. Does another program "
        f"use this device (nvidia-smi)?{class_pictures} {what_to_change(options)}"
    )


def release() -> None:
    """Give back what a failed step or attempt left behind: tensors in cycles, and blocks that torch keeps for later."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device_memory_bytes(device: torch.device) -> int | None:
    """What the device has in all; None on a CPU, whose memory is shared with everything else."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def peak_memory_bytes() -> int:
    """The most that tensors took on the GPU so far; on a CPU, the most that this process took, all in all.

    A counter that is kept anyway is read: no work of the GPU is waited for.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def micro_batch_size(wanted: int, smaller: SmallerMicroBatch | None, *, memory_bytes: int | None) -> int:
    """`wanted`, or what an earlier attempt found to fit, unless this device has more memory than that one's had."""
    if smaller is None:
        return wanted
    has_more = None not in (memory_bytes, smaller.device_memory_bytes) and (
        (memory_bytes or 0) > (smaller.device_memory_bytes or 0)
    )
    return wanted if has_more else min(wanted, smaller.size)


def what_to_change(options: TrainOptions) -> str:
    """In the order of what it costs: first what this run may go on with, then what needs a new one."""
    now = [] if options.training.recomputes_activations else ["--gradient_checkpointing (slower, same result)"]
    if not now and not options.training.offload:
        now.append("--offload (much slower, same result)")
    if not options.data.cache_latents:
        now.append("--cache_latents, so that no VAE is needed beside the denoiser")
    fresh = [] if options.training.precision != "no" else ["--mixed_precision bf16"]
    fresh += [f"a --resolution below {options.data.resolution}", f"a --rank below {options.lora.rank}"]
    here = f"The same command with {' and '.join(now)} goes on from here. " if now else ""
    return (
        f"{here}A new run needs less with {', or '.join(fresh)}. Or go on with this run on a device with more memory."
    )
