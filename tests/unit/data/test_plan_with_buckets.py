"""With buckets each sample still comes once a pass, in blocks of one shape, and a step depends on its number alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_resume.data.blocks import portions
from dreambooth_resume.data.buckets import Bucket, standard_buckets
from dreambooth_resume.data.plan import Part, Plan, Slot, in_segments, skipping
from dreambooth_resume.runs.entries import SkippedSteps

TALL, SQUARE, WIDE = Bucket(height=1216, width=832), Bucket(height=1024, width=1024), Bucket(height=832, width=1216)
SHAPES = st.lists(st.sampled_from(standard_buckets(1024)[12:20]), min_size=1, max_size=14).map(tuple)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    buckets = draw(SHAPES)
    times = draw(st.lists(st.integers(1, 3), min_size=len(buckets), max_size=len(buckets)).map(tuple))
    block_size = draw(st.integers(1, 5))
    return Plan(
        seed=draw(st.integers(0, 2**64 - 1)),
        picture_count=len(buckets),
        buckets=buckets,
        times=draw(st.sampled_from([(), times])),
        block_size=block_size,
        batch_size=block_size * draw(st.integers(1, 4)),
        repeats=draw(st.integers(1, 3)),
        class_count=draw(st.integers(0, 4)),
    )


def in_a_pass(plan: Plan) -> dict[int, int]:
    """How often each picture comes in a pass: its folder's number, times `repeats`."""
    times = plan.times or (1,) * plan.picture_count
    return {picture: count * plan.repeats for picture, count in enumerate(times)}


def samples_of(plan: Plan, count: int, *, first: int = 0) -> list[Slot]:
    steps = -(-count // plan.batch_size)
    return [slot for step in range(first, first + steps) for slot in plan.batch(step)][:count]


def test_golden_plan_with_buckets() -> None:
    buckets = (TALL, TALL, SQUARE, TALL, SQUARE, WIDE, TALL)
    plan = Plan(seed=0, picture_count=7, batch_size=4, block_size=2, buckets=buckets)
    assert [[(slot.picture, slot.variant) for slot in plan.batch(step)] for step in range(4)] == GOLDEN


@settings(deadline=None)
@given(plans())
def test_every_pass_has_each_sample_once_wherever_steps_and_blocks_fall(plan: Plan) -> None:
    """No sample is dropped and none repeated, however few share a shape."""
    length, passes = sum(in_a_pass(plan).values()), 3
    slots = samples_of(plan, passes * length)
    assert all(slot.bucket == plan.buckets[slot.picture] for slot in slots)
    for number in range(passes):
        seen = Counter(slot.picture for slot in slots[number * length : (number + 1) * length])
        assert seen == in_a_pass(plan)


@settings(deadline=None)
@given(plans())
def test_as_many_blocks_as_can_be_have_one_shape(plan: Plan) -> None:
    """Of a pass's whole blocks at most one is broken up, where the pass begins or ends within a block."""
    length, size, passes = sum(in_a_pass(plan).values()), plan.block_size, 4
    of_shape: Counter[Bucket] = Counter()
    for picture, count in in_a_pass(plan).items():
        of_shape[plan.buckets[picture]] += count
    slots = samples_of(plan, passes * length)
    for number in range(passes):
        begins, ends = number * length, (number + 1) * length
        blocks = [slots[at : at + size] for at in range(-(-begins // size) * size, ends - size + 1, size)]
        of_one = sum(len({slot.bucket for slot in block}) == 1 for block in blocks)
        whole = sum(count // size for count in of_shape.values())
        # A pass that is shorter than two blocks may have no room for one between its ends.
        assert of_one >= whole - 1


@settings(deadline=None)
@given(plans(), st.integers(0, 10_000))
def test_a_batch_depends_on_its_step_alone(plan: Plan, step: int) -> None:
    expected = plan.batch(step)
    for seed in range(20):
        replace(plan, seed=seed).batch(step)
    assert replace(plan).batch(step) == expected
    assert [(slot.step, slot.slot) for slot in expected] == [(step, number) for number in range(plan.batch_size)]


@settings(deadline=None)
@given(plans(), st.integers(0, 1000), st.integers(1, 6))
def test_a_class_picture_is_cut_to_the_shape_of_its_slots_picture(plan: Plan, step: int, count: int) -> None:
    ridden = replace(plan, class_count=count)
    own, others = ridden.batch(step), ridden.class_batch(step)
    assert own == plan.batch(step)
    assert [slot.bucket for slot in others] == [slot.bucket for slot in own]
    squares = replace(ridden, buckets=()).class_batch(step)
    assert [replace(slot, bucket=None) for slot in others] == list(squares)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 6))
def test_portions_have_one_shape_and_hold_every_place_once(shapes: list[int], size: int) -> None:
    cut = portions(shapes, size=size)
    assert sorted(place for portion in cut for place in portion) == list(range(len(shapes)))
    assert all(len({shapes[place] for place in portion}) == 1 for portion in cut)
    assert all(list(portion) == sorted(portion) for portion in cut)
    assert len(cut) == sum(-(-count // size) for count in Counter(shapes).values())


def test_portions_of_one_shape_are_the_slots_in_a_row() -> None:
    assert portions([None] * 5, size=2) == ((0, 1), (2, 3), (4,))


@settings(deadline=None)
@given(plans(), SHAPES, st.integers(1, 12))
def test_a_segment_begins_a_pass_over_its_own_pictures(first: Plan, buckets: tuple[Bucket, ...], begins: int) -> None:
    parts = [
        Part(first_step=0, picture_count=first.picture_count, buckets=first.buckets, times=first.times),
        Part(first_step=begins, picture_count=len(buckets), buckets=buckets),
    ]
    plan = in_segments(first, parts)
    assert [plan.batch(step) for step in range(begins)] == [first.batch(step) for step in range(begins)]
    length = len(buckets) * first.repeats
    pictures = [slot.picture - first.picture_count for slot in samples_of(plan, length, first=begins)]
    assert Counter(pictures) == dict.fromkeys(range(len(buckets)), first.repeats)


def test_skipped_steps_have_other_samples_and_their_shapes() -> None:
    plan = Plan(seed=3, picture_count=4, batch_size=2, block_size=2, buckets=(TALL, TALL, WIDE, WIDE), class_count=3)
    other = skipping(plan, (SkippedSteps(number=1, first=2, last=2, why="the loss is nan"),))
    assert [other.batch(step) == plan.batch(step) for step in range(4)] == [True, True, False, True]
    assert all(slot.bucket == plan.buckets[slot.picture] for slot in other.batch(2))
    assert [slot.bucket for slot in other.class_batch(2)] == [slot.bucket for slot in other.batch(2)]


def test_uses_are_all_that_steps_train_on_and_class_pictures_have_one_for_each_shape() -> None:
    plan = Plan(seed=3, picture_count=3, batch_size=2, buckets=(TALL, WIDE, WIDE), class_count=2, variants=2)
    slots = [slot for step in range(4) for slot in (*plan.batch(step), *plan.class_batch(step))]
    assert plan.variants_used(range(4)) == tuple(sorted({slot.use for slot in slots}))
    looked_at = iter(range(10**9))
    assert len(plan.variants_used(looked_at)) == 3 * 2 + 2 * 2 * 2
    assert next(looked_at) < 1000


def test_positions_are_about_equally_shared_out() -> None:
    """Left-over samples stand at the ends of passes, and these are drawn anew for each pass."""
    buckets = (TALL,) * 5 + (SQUARE,) * 3 + (WIDE,)
    plan = Plan(seed=0, picture_count=9, batch_size=9, block_size=1, buckets=buckets)
    first = Counter(plan.batch(step)[0].picture for step in range(900))
    assert all(60 < first[picture] < 140 for picture in range(9))
    in_pairs = replace(plan, batch_size=2, block_size=2)
    places = np.array([[slot.picture for slot in in_pairs.batch(step)] for step in range(9 * 500 // 2)]).ravel()
    begins = Counter(places[: 9 * 500 : 9].tolist())
    assert set(begins) == set(range(9))


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"buckets": (TALL,)}, "1 buckets for 2 pictures"), ({"block_size": 3}, "blocks of 3 don't make up a batch of 4")],
)
def test_what_does_not_fit_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**{"seed": 0, "picture_count": 2, "batch_size": 4, **changed})  # type: ignore[arg-type]


GOLDEN = [
    [(2, 6), (4, 3), (3, 0), (6, 0)],
    [(0, 6), (1, 2), (5, 7), (5, 7)],
    [(6, 5), (0, 5), (4, 2), (2, 0)],
    [(1, 0), (3, 4), (4, 2), (2, 1)],
]
