"""A step's samples, and how many of them are computed at once and by which process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from dreambooth_resume.data.batch import Batch, BatchBuilder, LatentSize
from dreambooth_resume.data.draws import draws_of
from dreambooth_resume.data.loader import Loader
from dreambooth_resume.data.prompts import prompt_draws_of
from dreambooth_resume.data.samples import SampleSource
from dreambooth_resume.training.memory import Portions, device_memory_bytes, micro_batch_size, what_to_change

if TYPE_CHECKING:
    from dreambooth_resume.training.build import Assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What process `process` of `processes`, counted from 0, has to compute."""

    process: int = 0
    processes: int = 1


ALONE = Share()


def portions_of(
    assignment: Assignment, samples: SampleSource, device: torch.device, *, share: Share = ALONE
) -> Portions:
    """The portions in which this process computes a step, or its share of it."""
    memory, wanted = device_memory_bytes(device), assignment.options.training.train_batch_size
    return Portions(
        size=micro_batch_size(wanted, assignment.smaller_micro_batch, memory_bytes=memory),
        effective_batch=assignment.plan.batch_size,
        batches_of=partial(_batches, assignment, samples, share),
        device_memory_bytes=memory,
        advice=what_to_change(assignment.options),
    )


def loader_of(assignment: Assignment, portions: Portions) -> Loader:
    """What prepares the steps' batches ahead."""
    machine = assignment.options.machine
    return Loader(
        portions.batches_of(portions.size),
        end_step=assignment.max_train_steps,
        workers=machine.dataloader_num_workers,
        prefetch_factor=machine.prefetch_factor,
    )


def _batches(
    assignment: Assignment, samples: SampleSource, share: Share, micro_batch_size: int
) -> Callable[[int], Batch]:
    options, facts = assignment.options, assignment.facts
    builder = BatchBuilder(
        assignment.plan,
        assignment.pictures,
        samples,
        micro_batch_size=micro_batch_size,
        latents=LatentSize(
            channels=facts.latent_channels,
            pixels_per_latent=facts.pixels_per_latent,
            resolution=options.data.resolution,
        ),
        draws=draws_of(options.loss, train_timesteps=facts.num_train_timesteps, prompts=prompt_draws_of(options.data)),
        class_weight=options.prior.prior_loss_weight,
    )
    return builder.share(share.process, share.processes)
