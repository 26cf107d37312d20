"""Prior preservation: in every slot rides a class picture, and nothing of the slot's own picture changes by it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_resume.data.batch import BatchBuilder, LatentSize, MicroBatch
from dreambooth_resume.data.dataset import Picture, PictureSet
from dreambooth_resume.data.draws import Draws, Timesteps
from dreambooth_resume.data.plan import Plan, Slot
from dreambooth_resume.data.prompts import PromptDraws
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.data.samples import Sample

LATENT_SHAPE = (4, 2, 2)
LATENTS = LatentSize(channels=4, pixels_per_latent=8, resolution=16)
PLANS = st.builds(
    Plan,
    seed=st.integers(0, 2**64 - 1),
    picture_count=st.integers(1, 6),
    batch_size=st.integers(1, 12),
    repeats=st.integers(1, 2),
    class_count=st.integers(1, 9),
)


def picture_named(name: str) -> Picture:
    return Picture(
        name=name, path=Path(name), sha256="0" * 64, size_bytes=1, width=16, height=16, prompt=f"a photo of {name}"
    )


def pictures_of(plan: Plan) -> PictureSet:
    """As many as the plan counts; each has a prompt of its own, so that a wrong pairing can't hide."""
    names = [f"dog-{number}" for number in range(plan.picture_count)]
    names += [f"class-{number}" for number in range(plan.class_count)]
    return PictureSet(pictures=tuple(picture_named(name) for name in names))


class NumberSource:
    """A sample that says which picture it is, in its latents and in its time ids."""

    def __call__(self, slot: Slot) -> Sample:
        mark = np.float32(slot.picture)
        return Sample(
            time_ids=np.full(6, mark, np.float32),
            mean=np.full(LATENT_SHAPE, mark, np.float32),
            logvar=np.full(LATENT_SHAPE, -mark, np.float32),
        )


def builder(plan: Plan, *, micro_batch_size: int, class_weight: float = 1.0) -> BatchBuilder:
    return BatchBuilder(
        plan,
        pictures_of(plan),
        NumberSource(),
        micro_batch_size=micro_batch_size,
        latents=LATENTS,
        draws=Draws(timesteps=Timesteps(end=1000)),
        class_weight=class_weight,
    )


def prompts_of(plan: Plan, part: MicroBatch) -> list[str]:
    return [PromptDraws().prompts(pictures_of(plan), plan)[index] for index in part.prompt_index.tolist()]


def test_golden_class_slots() -> None:
    plan = Plan(seed=0, picture_count=5, batch_size=2, class_count=3)
    found = [[(slot.picture, slot.variant) for slot in plan.class_batch(step)] for step in range(4)]
    assert found == GOLDEN_CLASS_SLOTS


GOLDEN_CLASS_SLOTS = [[(5, 3), (6, 1)], [(7, 3), (6, 1)], [(5, 3), (7, 4)], [(6, 4), (5, 7)]]


@settings(deadline=None)
@given(PLANS, st.integers(0, 100))
def test_the_pictures_slots_are_the_same_with_and_without_class_pictures(plan: Plan, step: int) -> None:
    assert replace(plan, class_count=0).batch(step) == plan.batch(step)
    assert replace(plan, class_count=0).class_batch(step) == ()


@settings(deadline=None)
@given(PLANS)
def test_every_class_picture_comes_once_before_any_comes_again(plan: Plan) -> None:
    steps = -(-3 * plan.class_count // plan.batch_size)
    found = [slot.picture - plan.picture_count for step in range(steps) for slot in plan.class_batch(step)]
    for number in range(3):
        one_pass = found[number * plan.class_count : (number + 1) * plan.class_count]
        assert Counter(one_pass) == dict.fromkeys(range(plan.class_count), 1)


@settings(deadline=None)
@given(PLANS, st.integers(0, 50), st.data())
def test_every_sample_has_its_own_prompt_time_ids_and_draws_at_any_batch_size(
    plan: Plan, step: int, data: st.DataObject
) -> None:
    """Diffusers' script repeats prompts as picture, class, picture, class beside latents in another order."""
    size = data.draw(st.sampled_from([n for n in range(1, plan.batch_size + 1) if plan.batch_size % n == 0]))
    batch = builder(plan, micro_batch_size=size)(step)
    own, ridden = plan.batch(step), plan.class_batch(step)
    for number, part in enumerate(batch.micro_batches):
        slots = (*own[number * size : (number + 1) * size], *ridden[number * size : (number + 1) * size])
        assert part.slots == size
        assert len(part.timesteps) == 2 * size
        assert part.mean is not None
        assert part.mean[:, 0, 0, 0].tolist() == part.time_ids[:, 0].tolist() == [slot.picture for slot in slots]
        pictures = pictures_of(plan).pictures
        assert prompts_of(plan, part) == [pictures[slot.picture].prompt for slot in slots]
        for row, slot in enumerate(slots):
            draw = {"step": step, "slot": slot.slot, "draw": int(slot.is_class)}
            for stream, value in ((Stream.NOISE, part.noise), (Stream.VAE, part.vae_noise)):
                expected = generator(plan.seed, stream, **draw).standard_normal(LATENT_SHAPE, dtype=np.float32)
                np.testing.assert_array_equal(value[row].numpy(), expected)
            assert part.timesteps[row] == generator(plan.seed, Stream.TIMESTEP, **draw).integers(1000)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_nothing_of_a_slots_picture_changes_when_class_pictures_are_added(size: int) -> None:
    plan = Plan(seed=11, picture_count=3, batch_size=4, class_count=5)
    pictures = pictures_of(plan)
    alone = PictureSet(pictures=tuple(replace(one, prompt="a photo of sks dog") for one in pictures.pictures[:3]))
    plain = BatchBuilder(
        replace(plan, class_count=0), alone, NumberSource(),
        micro_batch_size=size, latents=LATENTS, draws=Draws(timesteps=Timesteps(end=1000)),
    )  # fmt: skip
    ridden = builder(plan, micro_batch_size=size)(7).micro_batches
    for with_class, without in zip(ridden, plain(7).micro_batches, strict=True):
        assert without.class_weight is None
        assert without.slots == size
        assert with_class.dropout_seed == without.dropout_seed
        for name in ("mean", "logvar", "vae_noise", "noise", "timesteps", "time_ids"):
            assert torch.equal(getattr(with_class, name)[:size], getattr(without, name)), name


def test_the_weight_is_the_options() -> None:
    plan = Plan(seed=1, picture_count=2, batch_size=2, class_count=2)
    parts = builder(plan, micro_batch_size=1, class_weight=0.25)(0).micro_batches
    assert [part.class_weight for part in parts] == [0.25, 0.25]


def test_an_epoch_is_a_pass_over_the_larger_set_as_in_diffusers_script() -> None:
    plan = Plan(seed=0, picture_count=4, batch_size=2, repeats=2, class_count=10)
    assert (plan.epoch_length, plan.steps_for_epochs(3)) == (10, 15)
    assert replace(plan, class_count=5).epoch_length == 8


def test_variants_used_hold_the_class_pictures_too() -> None:
    plan = Plan(seed=3, picture_count=2, batch_size=3, class_count=4)
    slots = [slot for step in range(5, 9) for slot in (*plan.batch(step), *plan.class_batch(step))]
    assert plan.variants_used(range(5, 9)) == tuple(sorted({slot.use for slot in slots}))
    assert len(plan.variants_used(range(10**6))) == 6 * 8


def test_fewer_than_no_class_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="class_count"):
        Plan(seed=0, picture_count=1, batch_size=1, class_count=-1)
