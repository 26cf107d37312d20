"""Says what a step trains on, and nothing else does: a pure function of (seed, step, slot).

Samples are numbered through the whole run: step s holds samples s*B to s*B + B-1. An epoch is n * repeats samples in an
order of its own, and steps run across its end, so every sample is seen once before any is seen again, whatever B is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dreambooth_resume.data.random import Stream, generator, raw_words

VARIANTS = 8
# AUGMENT's draws at (step, slot): which variant, and in `transforms` the crop itself.
_VARIANT_DRAW = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One sample of a step: the index of its picture, and which of the picture's crop-and-flip variants."""

    step: int
    slot: int
    picture: int
    variant: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The order of a run. `batch_size` is B, the samples of a step: micro-batch x accumulation x processes."""

    seed: int
    picture_count: int
    batch_size: int
    repeats: int = 1
    variants: int = VARIANTS

    def __post_init__(self) -> None:
        for name in ("picture_count", "batch_size", "repeats", "variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def epoch_length(self) -> int:
        """Samples in an epoch."""
        return self.picture_count * self.repeats

    def batch(self, step: int) -> tuple[Slot, ...]:
        """The B slots of `step`, which counts from 0. O(B), and O(epoch) where an epoch begins."""
        return tuple(self._slot(step, slot) for slot in range(self.batch_size))

    def _slot(self, step: int, slot: int) -> Slot:
        epoch, position = divmod(step * self.batch_size + slot, self.epoch_length)
        sample = int(_epoch_order(self.seed, epoch, self.epoch_length)[position])
        words = raw_words(generator(self.seed, Stream.AUGMENT, step=step, slot=slot, draw=_VARIANT_DRAW), 1)
        return Slot(
            step=step, slot=slot, picture=sample % self.picture_count, variant=int(words[0] % np.uint64(self.variants))
        )

    def epoch_of(self, step: int) -> int:
        """The epoch that `step`'s first sample belongs to, from 0."""
        return step * self.batch_size // self.epoch_length

    def steps_for_epochs(self, epochs: int) -> int:
        """Steps until every sample has been seen `epochs` times: ceil(epochs * n * repeats / B)."""
        return -(-epochs * self.epoch_length // self.batch_size)

    def variants_used(self, steps: Iterable[int]) -> tuple[tuple[int, int], ...]:
        """The (picture, variant) pairs that `steps` train on, sorted: what is worth encoding before they start.

        Stops looking once all pairs have come up, so a long run costs no more than a few passes over the pictures.
        """
        used: set[tuple[int, int]] = set()
        for step in steps:
            used.update((slot.picture, slot.variant) for slot in self.batch(step))
            if len(used) == self.picture_count * self.variants:
                break
        return tuple(sorted(used))


# A few epochs are in use at once (steps cross epoch ends, workers run ahead); 16 orders bound the memory.
@functools.lru_cache(maxsize=16)
def _epoch_order(seed: int, epoch: int, length: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """A permutation of range(length): the samples sorted by a random word each."""
    return np.argsort(raw_words(generator(seed, Stream.SHUFFLE, step=epoch), length), kind="stable")
