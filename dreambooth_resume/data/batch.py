"""Everything that a step's update is computed from, put together without knowing anything but the step's number.

Shapes: b micro-batch, C latent channels, h and w of the latents, H and W of the pixels. With buckets h, w, H and W
are others in other micro-batches.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreambooth_resume.data.blocks import portions
from dreambooth_resume.data.buckets import Bucket
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.draws import Draws
from dreambooth_resume.data.plan import Plan, Slot
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.data.samples import Sample, SampleSource
from dreambooth_resume.data.transforms import FloatArray

# Draws of TIMESTEP, NOISE and VAE: see `random.Stream`. A class picture has the next one of each.
_DRAW, _OFFSET_DRAW, _PERTURBATION_DRAW = 0, 2, 4
_CHECKED_NUMBERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """What goes through the model at once, in CPU memory.

    Given is either `pixels` float32 [b, 3, H, W], or the VAE's `mean` and `logvar` float32 [b, C, h, w]. `vae_noise`
    (to sample from these) and `noise` (to add, and to be predicted) are float32 [b, C, h, w]; `input_noise` is what is
    added where that is something else. `timesteps` are int64 [b], `time_ids` float32 [b, 6], and `prompt_index` int64
    [b] counts in `PromptDraws.prompts`. `dropout_seed` goes to torch's global generator before the forward pass.

    With prior preservation b is twice the number of slots: first their pictures, then their class pictures, each with
    a prompt, time ids and draws of its own, and no mask. `class_weight` is then how much the class pictures' loss
    counts, else None.
    """

    pixels: Tensor | None
    mean: Tensor | None
    logvar: Tensor | None
    vae_noise: Tensor
    noise: Tensor
    timesteps: Tensor
    prompt_index: Tensor
    time_ids: Tensor
    dropout_seed: int
    class_weight: float | None = None
    input_noise: Tensor | None = None
    mask: Tensor | None = None
    """Where there are masks: which part of the slots' pictures is trained, float32 [slots, h, w] in 0..1."""

    @property
    def slots(self) -> int:
        """How many of the step's B samples these are; class pictures ride along and aren't counted."""
        samples = len(self.timesteps)
        return samples if self.class_weight is None else samples // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The B samples of `step`, in micro-batches, with the pictures' names in slot order (without class pictures).

    Each micro-batch has one shape, so with buckets there may be more of them, and smaller ones. The slots of one shape
    keep their order, and the shapes stand in the order of their first slots.
    """

    step: int
    micro_batches: tuple[MicroBatch, ...]
    picture_names: tuple[str, ...]
    slots: int
    """B. Where several processes compute the step, `micro_batches` are only this one's share."""
    micro_batch_count: int
    """How many micro-batches all processes have together."""
    checksum: int | None = None
    """What `samples_checksum` says of the micro-batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSize:
    """How large latents are: `channels`, and `pixels_per_latent` along a side; those of a square of `resolution`."""

    channels: int
    pixels_per_latent: int
    resolution: int

    def of(self, bucket: Bucket | None) -> tuple[int, int, int]:
        """(C, h, w) of what is cut to `bucket`, or else to the square."""
        square = Bucket(height=self.resolution, width=self.resolution)
        shape, factor = bucket or square, self.pixels_per_latent
        return self.channels, shape.height // factor, shape.width // factor


class BatchBuilder:
    """Step → batch, a pure function that several threads may call.

    `micro_batch_size` divides the plan's B; without buckets micro-batch m holds slots m*b to m*b + b-1. `latents` says
    how large noise is, `draws` how it and timesteps are drawn. `pictures` are those of the plan, class pictures last;
    `class_weight` is how much these count.
    """

    def __init__(
        self,
        plan: Plan,
        pictures: PictureSet,
        source: SampleSource,
        *,
        micro_batch_size: int,
        latents: LatentSize,
        draws: Draws,
        class_weight: float = 1.0,
    ) -> None:
        if plan.batch_size % micro_batch_size:
            raise ValueError(f"micro-batches of {micro_batch_size} don't make up a batch of {plan.batch_size}")
        self._plan = plan
        self._pictures = pictures.pictures
        self._prompt_index = {prompt: index for index, prompt in enumerate(draws.prompts.prompts(pictures, plan))}
        self._source = source
        self._micro_batch_size = micro_batch_size
        self._latents = latents
        self._draws = draws
        self._class_weight = class_weight if plan.class_count else None

    def __call__(self, step: int) -> Batch:
        return self._batch(step, process=0, processes=1)

    def share(self, process: int, processes: int) -> Callable[[int], Batch]:
        """Step → the micro-batches of this one of several processes, counted from 0: every `processes`-th one.

        Process 0 has one in any case.
        """
        return partial(self._batch, process=process, processes=processes)

    def _batch(self, step: int, *, process: int, processes: int) -> Batch:
        slots, class_slots = self._plan.batch(step), self._plan.class_batch(step)
        cuts = portions([slot.bucket for slot in slots], size=self._micro_batch_size)
        mine = cuts[process::processes]
        parts = (slots, class_slots) if class_slots else (slots,)
        micro_batches = tuple(self._micro_batch([part[place] for part in parts for place in cut]) for cut in mine)
        return Batch(
            step=step,
            micro_batches=micro_batches,
            picture_names=tuple(self._pictures[slot.picture].name for slot in slots),
            slots=len(slots),
            micro_batch_count=len(cuts),
            checksum=samples_checksum(micro_batches),
        )

    def _micro_batch(self, slots: Sequence[Slot]) -> MicroBatch:
        samples = [self._source(slot) for slot in slots]
        draw_prompt = partial(self._draws.prompts.prompt, seed=self._plan.seed)
        prompts = [draw_prompt(self._pictures[slot.picture], slot) for slot in slots]
        noise = self._noise(Stream.NOISE, slots)
        if self._draws.noise_offset:
            noise = noise + self._draws.noise_offset * self._offsets(slots)
        input_noise = None
        if self._draws.input_perturbation:
            more = self._noise(Stream.NOISE, slots, draw=_PERTURBATION_DRAW)
            input_noise = noise + self._draws.input_perturbation * more
        dropout_rng = generator(self._plan.seed, Stream.DROPOUT, step=slots[0].step, slot=slots[0].slot)
        return MicroBatch(
            pixels=_stacked_or_none(samples, lambda sample: sample.pixels),
            mean=_stacked_or_none(samples, lambda sample: sample.mean),
            logvar=_stacked_or_none(samples, lambda sample: sample.logvar),
            vae_noise=self._noise(Stream.VAE, slots),
            noise=noise,
            timesteps=_stacked([self._timestep(slot) for slot in slots]),
            prompt_index=_stacked([np.int64(self._prompt_index[prompt]) for prompt in prompts]),
            time_ids=_stacked([sample.time_ids for sample in samples]),
            # torch's CPU generator keeps the low 32 bits, so more would only pretend.
            dropout_seed=int(dropout_rng.integers(2**32)),
            class_weight=self._class_weight,
            input_noise=input_noise,
            mask=_stacked_or_none(samples, lambda sample: sample.mask),
        )

    def _noise(self, stream: Stream, slots: Sequence[Slot], *, draw: int = _DRAW) -> Tensor:
        """One draw per sample, of its shape: what a slot gets must not depend on the micro-batch it lands in."""
        rngs = [self._generator(stream, slot, draw=draw) for slot in slots]
        shape = self._latents.of(slots[0].bucket)
        return _stacked([rng.standard_normal(shape, dtype=np.float32) for rng in rngs])

    def _offsets(self, slots: Sequence[Slot]) -> Tensor:
        """A number for each channel, float32 [b, C, 1, 1]."""
        rngs = [self._generator(Stream.NOISE, slot, draw=_OFFSET_DRAW) for slot in slots]
        return _stacked([rng.standard_normal((self._latents.channels, 1, 1), dtype=np.float32) for rng in rngs])

    def _timestep(self, slot: Slot) -> np.int64:
        return self._draws.timesteps.draw(self._generator(Stream.TIMESTEP, slot, draw=_DRAW))

    def _generator(self, stream: Stream, slot: Slot, *, draw: int) -> np.random.Generator:
        # A class picture has a draw of its own, so what a slot's picture gets is the same with and without it.
        return generator(self._plan.seed, stream, step=slot.step, slot=slot.slot, draw=draw + slot.is_class)


def samples_checksum(micro_batches: Sequence[MicroBatch]) -> int:
    """32 bits that stand for a step's samples: timestep, noise, picture, prompt and size of each.

    The same however the samples are cut into micro-batches: it is the sum of theirs. Of noise and picture a few hundred
    numbers are looked at: it is to tell other samples from the same ones, not to prove anything.
    """
    total = 0
    for one in micro_batches:
        pictures = one.pixels if one.pixels is not None else one.mean
        kinds = (one.timesteps, one.prompt_index, one.time_ids, one.noise, pictures)
        looked_at = [_some_numbers(kind) for kind in kinds if kind is not None]
        for sample in zip(*looked_at, strict=True):
            total += zlib.crc32(b"".join(numbers.tobytes() for numbers in sample))
    return total % 2**32


def _some_numbers(kind: Tensor) -> NDArray[np.generic]:
    """At most a few hundred numbers of each sample, evenly spread: [b, numbers]."""
    flat: NDArray[np.generic] = kind.numpy().reshape(len(kind), -1)
    return flat[:, :: max(1, flat.shape[1] // _CHECKED_NUMBERS)]


def _stacked(values: Sequence[FloatArray] | Sequence[np.int64]) -> Tensor:
    return torch.from_numpy(np.stack(values))


def _stacked_or_none(samples: Sequence[Sample], part: Callable[[Sample], FloatArray | None]) -> Tensor | None:
    values = [value for value in map(part, samples) if value is not None]
    return _stacked(values) if values else None
