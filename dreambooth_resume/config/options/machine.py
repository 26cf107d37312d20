"""Options: how this machine does the work. None of them is meant to change a number."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from dreambooth_resume.config.options.declaration import FINITE, SECTION_CONFIG, applied, free


class MachineOptions(BaseModel):
    """Threads and progress on this machine."""

    model_config = SECTION_CONFIG

    dataloader_num_workers: Annotated[int, Field(ge=0, le=64), free()] = 0
    """Threads that prepare batches ahead. 0: the training thread prepares them itself. The batches are the same."""

    prefetch_factor: Annotated[int, Field(ge=1, le=64), free()] = 2
    """Steps that each of those threads is ahead."""

    torch_threads: Annotated[
        int | None,
        Field(ge=1, le=1024),
        applied("on a CPU, sums are made in another order from the next step on", null_is_unset=True),
    ] = None
    """CPU threads of torch. null: those that the run began with, so that its numbers stay the same to the last bit."""

    num_processes: Annotated[int, Field(ge=1, le=64), free()] = 1
    """Processes of this machine that compute each step together, one on each GPU. At the start of a run a step has
    train_batch_size x gradient_accumulation_steps x num_processes samples; later this number may change, and the result
    does not. Under torchrun or accelerate launch their number counts. Not run on GPUs so far."""

    local_rank: Annotated[int, Field(ge=-1), free(recorded=False)] = -1
    """The process's number on its machine, set by launchers of several processes; only -1 and 0 are
    taken. Give num_processes in its place."""

    progress_seconds: Annotated[float, FINITE, Field(gt=0), free(recorded=False)] = 10.0
    """Seconds between two lines of progress where there is no terminal."""
