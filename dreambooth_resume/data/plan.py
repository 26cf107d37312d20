"""Says what a step trains on, and nothing else does: a pure function of (seed, step, slot).

Samples are numbered through the whole run: step s holds samples s*B to s*B + B-1. A pass is n * repeats samples in an
order of its own, and steps run across its end, so every sample is seen once before any is seen again, whatever B is.
A picture whose folder asks for it comes several times in a pass.

With prior preservation a class picture rides in every slot, in passes of their own over the class pictures. These are
counted from n on, behind the pictures 0 to n-1. The slots of the pictures are the same with and without.

With aspect-ratio buckets a pass has the samples in blocks of one shape (`blocks`), each sample once as ever, and a
class picture is cut to the shape of the picture whose slot it rides in.

A data set that changed on purpose begins a segment: from its first step on, passes go over the new pictures, which are
counted behind those of the segments before. What the steps before it hold stays as it was.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dreambooth_resume.data.blocks import order_in_blocks
from dreambooth_resume.data.buckets import Bucket
from dreambooth_resume.data.random import Stream, generator, raw_words
from dreambooth_resume.runs.entries import SkippedSteps

VARIANTS = 8
SKIP_STRIDE = 2**40
"""More steps than any run has: what skipped steps get instead is of no other step."""
# Draws of AUGMENT (which variant) and of SHUFFLE (the order of a pass): see `random.Stream`.
_VARIANT_DRAW, _CLASS_VARIANT_DRAW = 0, 3
_ORDER_DRAW, _CLASS_ORDER_DRAW, _BLOCKS_DRAW = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Use:
    """A picture in one of its crop-and-flip variants, cut to one shape; `bucket` None: a square."""

    picture: int
    variant: int
    bucket: Bucket | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One sample of a step: the index of its picture, and which of the picture's crop-and-flip variants."""

    step: int
    """By which everything about the sample is drawn: the step itself, unless its own samples are skipped."""
    slot: int
    picture: int
    variant: int
    is_class: bool = False
    """The class picture that rides in the slot, with draws of its own."""
    bucket: Bucket | None = None
    """What the picture is cut to; None: a square."""

    @property
    def use(self) -> Use:
        return Use(picture=self.picture, variant=self.variant, bucket=self.bucket)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The order of a run. `batch_size` is B, the samples of a step: micro-batch x accumulation x processes.

    `class_count` is the number of class pictures, 0 without prior preservation; B does not count them. `earlier` holds
    before `first_step`, and `picture_count` is the number of pictures from there on. A step in `skipped` has what one
    far beyond the run's end would have. `buckets` has one for each of these pictures, or is empty: all are squares.
    `times` has for each of them how often it comes in a pass, beside `repeats`, or is empty: each comes once.
    """

    seed: int
    picture_count: int
    batch_size: int
    repeats: int = 1
    variants: int = VARIANTS
    class_count: int = 0
    first_step: int = 0
    earlier: Plan | None = None
    skipped: tuple[SkippedSteps, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    block_size: int = 1
    """With buckets: samples of one shape that stand together. The run's micro-batch, as it was at its first start."""
    times: tuple[int, ...] = ()
    _members: tuple[int, ...] = field(init=False, repr=False)
    """The pictures of a pass, before `repeats`: each as often as its folder asks for."""
    _kinds: tuple[int, ...] = field(init=False, repr=False)
    """The members' `buckets` as small numbers, which are quick to look up."""

    def __post_init__(self) -> None:
        for name in ("picture_count", "batch_size", "repeats", "variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.class_count < 0:
            raise ValueError(f"class_count must be at least 0, not {self.class_count}")
        if (self.earlier is None) != (self.first_step == 0) or (
            self.earlier is not None and self.earlier.first_step >= self.first_step
        ):
            raise ValueError(f"a segment begins behind the one before, not at step {self.first_step}")
        if len(self.buckets) not in (0, self.picture_count):
            raise ValueError(f"{len(self.buckets)} buckets for {self.picture_count} pictures")
        if len(self.times) not in (0, self.picture_count) or min(self.times, default=1) < 1:
            raise ValueError(f"{len(self.times)} numbers of times, from 1, for {self.picture_count} pictures")
        if self.block_size < 1 or self.batch_size % self.block_size:
            raise ValueError(f"blocks of {self.block_size} don't make up a batch of {self.batch_size}")
        numbers = {bucket: number for number, bucket in enumerate(sorted(set(self.buckets)))}
        times = self.times or (1,) * self.picture_count
        members = tuple(picture for picture, count in enumerate(times) for _ in range(count))
        object.__setattr__(self, "_members", members)
        object.__setattr__(self, "_kinds", tuple(numbers[self.buckets[one]] for one in members) if numbers else ())

    @property
    def pictures_in_all(self) -> int:
        """The pictures of all segments; class pictures are counted behind them."""
        return self._first_picture + self.picture_count

    @property
    def _first_picture(self) -> int:
        return self.earlier.pictures_in_all if self.earlier else 0

    @property
    def epoch_length(self) -> int:
        """Samples in an epoch: a pass over the pictures, or over the class pictures if these are more.

        That is how Diffusers' script counts epochs, and nothing but their number depends on it.
        """
        return max(self._pass_length, self.class_count)

    @property
    def _pass_length(self) -> int:
        return len(self._members) * self.repeats

    def batch(self, step: int) -> tuple[Slot, ...]:
        """The B slots of `step`, which counts from 0. O(B), and O(epoch) where an epoch begins."""
        if self.earlier is not None and step < self.first_step:
            return self.earlier.batch(step)
        drawn = self._drawn_as(step)
        samples = [self._sample_of_pass(drawn, slot) for slot in range(self.batch_size)]
        pictures = [self._members[sample % len(self._members)] for sample in samples]
        return tuple(
            Slot(
                step=drawn,
                slot=slot,
                picture=self._first_picture + picture,
                variant=self._variant(drawn, slot, draw=_VARIANT_DRAW),
                bucket=self.buckets[picture] if self.buckets else None,
            )
            for slot, picture in enumerate(pictures)
        )

    def class_batch(self, step: int) -> tuple[Slot, ...]:
        """The class pictures that ride in the slots of `step`, in the slots' order; none without prior preservation."""
        if not self.class_count:
            return ()
        return tuple(
            Slot(
                step=beside.step,
                slot=beside.slot,
                picture=self.pictures_in_all + self._class_sample(beside.step, beside.slot),
                variant=self._variant(beside.step, beside.slot, draw=_CLASS_VARIANT_DRAW),
                is_class=True,
                bucket=beside.bucket,
            )
            for beside in self.batch(step)
        )

    def _drawn_as(self, step: int) -> int:
        """The step by whose number `step`'s samples are drawn: another one where a guard has gone back over it."""
        times = max((window.number for window in self.skipped if window.first <= step <= window.last), default=0)
        return step + times * SKIP_STRIDE

    def _sample_of_pass(self, step: int, slot: int) -> int:
        """Which of the segment's samples comes there, in passes in which each comes once."""
        number, position = divmod((step - self.first_step) * self.batch_size + slot, self._pass_length)
        # No pass has the order of one that an earlier segment had.
        of_its_own = self._passes_before + number
        if self.buckets:
            begun = number * self._pass_length % self.block_size
            return _blocks_order(self.seed, of_its_own, self._kinds, self.repeats, self.block_size, begun)[position]
        return int(_pass_order(self.seed, of_its_own, self._pass_length, _ORDER_DRAW)[position])

    def _class_sample(self, step: int, slot: int) -> int:
        """Which class picture comes there: their passes know no segments."""
        number, position = divmod(step * self.batch_size + slot, self.class_count)
        return int(_pass_order(self.seed, number, self.class_count, _CLASS_ORDER_DRAW)[position])

    @property
    def _passes_before(self) -> int:
        """Passes that were begun before this segment."""
        if self.earlier is None:
            return 0
        samples = (self.first_step - self.earlier.first_step) * self.batch_size
        return self.earlier._passes_before + -(-samples // self.earlier._pass_length)

    def _variant(self, step: int, slot: int, *, draw: int) -> int:
        words = raw_words(generator(self.seed, Stream.AUGMENT, step=step, slot=slot, draw=draw), 1)
        return int(words[0] % np.uint64(self.variants))

    def epoch_of(self, step: int) -> int:
        """The epoch that `step`'s first sample belongs to, from 0. A segment begins an epoch."""
        return self.position(step)[0]

    def epochs_ended(self, step: int) -> range:
        """The epochs, from 0, that end with the update `step`, which counts from 1; mostly none."""
        return range(self.epoch_of(step - 1), self.epoch_of(step))

    def position(self, step: int) -> tuple[int, int]:
        """The epoch of `step`'s first sample, and which of the epoch's samples that is, both from 0."""
        if self.earlier is not None and step < self.first_step:
            return self.earlier.position(step)
        epoch, sample = divmod((step - self.first_step) * self.batch_size, self.epoch_length)
        if self.earlier is None:
            return epoch, sample
        last, begun = self.earlier.position(self.first_step)
        return last + (begun > 0) + epoch, sample

    def steps_for_epochs(self, epochs: int) -> int:
        """Steps until every sample has been seen `epochs` times: ceil(epochs * n * repeats / B)."""
        return -(-epochs * self.epoch_length // self.batch_size)

    def variants_used(self, steps: Iterable[int]) -> tuple[Use, ...]:
        """What `steps` train on, sorted: what is worth encoding before they start.

        Stops looking once all has come up that could, so a long run costs no more than a few passes over the pictures.
        """
        most = (self.pictures_in_all + self.class_count * len(self._shapes)) * self.variants
        used: set[Use] = set()
        for step in steps:
            used.update(slot.use for slot in (*self.batch(step), *self.class_batch(step)))
            if len(used) == most:
                break
        return tuple(sorted(used))

    @property
    def _shapes(self) -> frozenset[Bucket | None]:
        """All that a class picture may be cut to."""
        here: frozenset[Bucket | None] = frozenset(self.buckets or (None,))
        return here | self.earlier._shapes if self.earlier else here


def skipping(plan: Plan, skipped: tuple[SkippedSteps, ...]) -> Plan:
    """`plan`, in all its segments, with other samples for these steps."""
    return replace(plan, skipped=skipped, earlier=skipping(plan.earlier, skipped) if plan.earlier else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A data set's part in a run: from `first_step` on. `buckets` and `times` as in `Plan`."""

    first_step: int
    picture_count: int
    buckets: tuple[Bucket, ...] = ()
    times: tuple[int, ...] = ()


def in_segments(plan: Plan, parts: Sequence[Part]) -> Plan:
    """`plan` over data sets that took each other's place, the first of them from step 0."""
    whole: Plan | None = None
    for part in parts:
        whole = replace(
            plan,
            picture_count=part.picture_count,
            buckets=part.buckets,
            times=part.times,
            first_step=part.first_step,
            earlier=whole,
        )
    assert whole is not None, "a run has at least one data set"
    return whole


# A few passes are in use at once (steps cross their ends, workers run ahead); 16 orders bound the memory.
@functools.lru_cache(maxsize=16)
def _pass_order(seed: int, number: int, length: int, draw: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """A permutation of range(length): the samples sorted by a random word each."""
    return np.argsort(_order_words(seed, number, length, draw), kind="stable")


@functools.lru_cache(maxsize=16)
def _blocks_order(
    seed: int, number: int, kinds: tuple[int, ...], repeats: int, block_size: int, begun: int
) -> list[int]:
    """A permutation of the pass's samples, those of one kind in blocks."""
    length = len(kinds) * repeats
    return order_in_blocks(
        kinds * repeats,
        block_size=block_size,
        begun=begun,
        words=_order_words(seed, number, length, _ORDER_DRAW),
        block_words=_order_words(seed, number, length, _BLOCKS_DRAW),
    )


def _order_words(seed: int, number: int, length: int, draw: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return raw_words(generator(seed, Stream.SHUFFLE, step=number, draw=draw), length)
