"""What a step trains on is pure, each epoch is a permutation, and the order is the same for ever."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_resume.data.plan import SKIP_STRIDE, Plan, Slot, skipping
from dreambooth_resume.runs.entries import SkippedSteps

PLANS = st.builds(
    Plan,
    seed=st.integers(0, 2**64 - 1),
    picture_count=st.integers(1, 12),
    batch_size=st.integers(1, 30),
    repeats=st.integers(1, 3),
    variants=st.integers(1, 8),
)


def samples_of(plan: Plan, count: int) -> list[Slot]:
    """The first `count` samples of a run, in order."""
    steps = -(-count // plan.batch_size)
    return [slot for step in range(steps) for slot in plan.batch(step)][:count]


def test_golden_plan() -> None:
    plan = Plan(seed=0, picture_count=5, batch_size=2)
    assert [[(slot.picture, slot.variant) for slot in plan.batch(step)] for step in range(6)] == [
        [(0, 6), (2, 3)],
        [(1, 6), (4, 2)],
        [(3, 5), (4, 5)],
        [(2, 0), (0, 4)],
        [(1, 5), (3, 2)],
        [(1, 2), (4, 1)],
    ]


@settings(deadline=None)
@given(PLANS)
def test_every_epoch_is_a_permutation_wherever_steps_fall(plan: Plan) -> None:
    """Also when B doesn't divide n and when B > n: an epoch's end lies in the middle of a step."""
    epochs = 3
    pictures = [slot.picture for slot in samples_of(plan, epochs * plan.epoch_length)]
    for epoch in range(epochs):
        seen = Counter(pictures[epoch * plan.epoch_length : (epoch + 1) * plan.epoch_length])
        assert seen == dict.fromkeys(range(plan.picture_count), plan.repeats)


@settings(deadline=None)
@given(PLANS, st.randoms())
def test_a_batch_depends_on_its_step_alone(plan: Plan, order: random.Random) -> None:
    """Asked in any order, by another object, and with the order's cache full of other runs."""
    steps = [0, 1, 2, 17, 10_000]
    expected = {step: plan.batch(step) for step in steps}
    order.shuffle(steps)
    for seed in range(20):
        Plan(seed=seed, picture_count=3, batch_size=1).batch(order.randrange(1000))
    again = Plan(
        seed=plan.seed,
        picture_count=plan.picture_count,
        batch_size=plan.batch_size,
        repeats=plan.repeats,
        variants=plan.variants,
    )
    assert {step: again.batch(step) for step in steps} == expected


@settings(deadline=None)
@given(PLANS, st.integers(0, 500))
def test_slots_are_numbered_and_in_range(plan: Plan, step: int) -> None:
    slots = plan.batch(step)
    assert [(slot.step, slot.slot) for slot in slots] == [(step, number) for number in range(plan.batch_size)]
    assert all(0 <= slot.picture < plan.picture_count and 0 <= slot.variant < plan.variants for slot in slots)


def test_pictures_do_not_depend_on_the_batch_size() -> None:
    """B decides only where the steps are cut; a run keeps its B, but the order of pictures is B's of no one."""
    whole = [slot.picture for slot in samples_of(Plan(seed=5, picture_count=7, batch_size=1), 70)]
    cut = [slot.picture for slot in samples_of(Plan(seed=5, picture_count=7, batch_size=9), 70)]
    assert whole == cut


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    plan = Plan(seed=0, picture_count=20, batch_size=20)
    other = Plan(seed=1, picture_count=20, batch_size=20)
    orders = {tuple(slot.picture for slot in run.batch(step)) for run in (plan, other) for step in range(10)}
    assert len(orders) == 20


def test_all_variants_come_up_about_equally_often() -> None:
    seen = Counter(slot.variant for slot in samples_of(Plan(seed=0, picture_count=3, batch_size=4), 4000))
    assert set(seen) == set(range(8))
    assert all(400 < count < 600 for count in seen.values())


@pytest.mark.parametrize(
    ("n", "repeats", "batch_size", "epochs", "steps"),
    [(10, 1, 2, 1, 5), (10, 1, 4, 1, 3), (10, 1, 4, 2, 5), (5, 2, 3, 4, 14), (3, 1, 8, 1, 1), (3, 1, 8, 0, 0)],
)
def test_steps_for_epochs_is_rounded_up_once_for_all_epochs(
    n: int, repeats: int, batch_size: int, epochs: int, steps: int
) -> None:
    plan = Plan(seed=0, picture_count=n, batch_size=batch_size, repeats=repeats)
    assert plan.steps_for_epochs(epochs) == steps


def test_epoch_of_a_step_is_that_of_its_first_sample() -> None:
    plan = Plan(seed=0, picture_count=5, batch_size=2)
    assert [plan.epoch_of(step) for step in range(6)] == [0, 0, 0, 1, 1, 2]


def test_variants_used_are_those_of_the_steps_asked_for() -> None:
    plan = Plan(seed=3, picture_count=4, batch_size=3)
    expected = {slot.use for step in range(5, 9) for slot in plan.batch(step)}
    assert plan.variants_used(range(5, 9)) == tuple(sorted(expected))


def test_variants_used_stops_looking_once_all_came_up() -> None:
    looked_at = iter(range(10**9))
    used = Plan(seed=3, picture_count=2, batch_size=4).variants_used(looked_at)
    assert len(used) == 16
    assert next(looked_at) < 1000


@pytest.mark.parametrize("name", ["picture_count", "batch_size", "repeats", "variants"])
def test_nothing_to_plan_is_refused(name: str) -> None:
    sizes = {"picture_count": 2, "batch_size": 2, name: 0}
    with pytest.raises(ValueError, match=name):
        Plan(seed=0, **sizes)


def test_golden_plan_of_two_segments() -> None:
    first = Plan(seed=0, picture_count=5, batch_size=2)
    plan = Plan(seed=0, picture_count=3, batch_size=2, first_step=4, earlier=first)
    assert [plan.batch(step) for step in range(4)] == [first.batch(step) for step in range(4)]
    assert [[(slot.picture, slot.variant) for slot in plan.batch(step)] for step in range(4, 8)] == [
        [(6, 5), (5, 2)],
        [(7, 2), (5, 1)],
        [(6, 2), (7, 4)],
        [(7, 1), (5, 7)],
    ]
    assert [plan.position(step) for step in range(3, 7)] == [(1, 1), (2, 0), (2, 2), (3, 1)]


@settings(deadline=None)
@given(PLANS, st.integers(1, 20), st.integers(1, 20), st.integers(1, 12))
def test_a_segment_begins_a_pass_over_its_own_pictures(first: Plan, begins: int, length: int, count: int) -> None:
    """Whatever the segments before it held, and without a pass in an order that was there before."""
    sizes = {"seed": first.seed, "batch_size": first.batch_size, "repeats": first.repeats, "variants": first.variants}
    second = Plan(picture_count=count, first_step=begins, earlier=first, **sizes)
    third = Plan(picture_count=count, first_step=begins + length, earlier=second, **sizes)
    assert [third.batch(step) for step in range(begins)] == [first.batch(step) for step in range(begins)]
    assert [third.batch(step) for step in range(begins, begins + length)] == [
        second.batch(step) for step in range(begins, begins + length)
    ]
    offset = first.picture_count + count
    steps = range(begins + length, begins + length + count * first.repeats)
    pictures = [slot.picture for step in steps for slot in third.batch(step)][: count * first.repeats]
    assert Counter(pictures) == dict.fromkeys(range(offset, offset + count), first.repeats)
    assert third.pictures_in_all == offset + count


def test_class_pictures_are_counted_behind_all_segments_and_keep_their_order() -> None:
    first = Plan(seed=0, picture_count=5, batch_size=2, class_count=4)
    plan = Plan(seed=0, picture_count=3, batch_size=2, class_count=4, first_step=3, earlier=first)
    for step in range(8):
        before = [slot.picture - 5 for slot in first.class_batch(step)]
        assert [slot.picture - 8 for slot in plan.class_batch(step)] == before


@pytest.mark.parametrize("first_step", [0, -1])
def test_a_segment_that_begins_before_the_run_is_refused(first_step: int) -> None:
    first = Plan(seed=0, picture_count=2, batch_size=2)
    with pytest.raises(ValueError, match="a segment begins behind the one before"):
        Plan(seed=0, picture_count=2, batch_size=2, first_step=first_step, earlier=first)


def test_skipped_steps_get_samples_of_their_own_and_no_other_step_notices() -> None:
    plan = Plan(seed=3, picture_count=5, batch_size=2, class_count=3)
    once = SkippedSteps(number=1, first=4, last=5, why="the loss is nan")
    twice = SkippedSteps(number=2, first=3, last=5, why="the loss is nan")
    other = skipping(plan, (once, twice))
    assert [other.batch(step) == plan.batch(step) for step in range(8)] == [True] * 3 + [False] * 3 + [True] * 2
    assert [other.class_batch(step) == plan.class_batch(step) for step in (2, 3)] == [True, False]
    assert skipping(plan, (once,)).batch(5) != other.batch(5)
    drawn = {slot.step for step in range(8) for slot in (*other.batch(step), *other.class_batch(step))}
    assert {*drawn} - {0, 1, 2, 6, 7} == {3 + 2 * SKIP_STRIDE, 4 + 2 * SKIP_STRIDE, 5 + 2 * SKIP_STRIDE}


def test_samples_are_skipped_in_the_segment_that_the_step_is_in() -> None:
    first = Plan(seed=3, picture_count=5, batch_size=2)
    plan = Plan(seed=3, picture_count=2, batch_size=2, first_step=4, earlier=first)
    other = skipping(plan, (SkippedSteps(number=1, first=3, last=4, why="the loss is nan"),))
    assert [other.batch(step) == plan.batch(step) for step in range(6)] == [True] * 3 + [False] * 2 + [True]
    assert all(slot.picture < 5 for slot in other.batch(3))
    assert all(slot.picture >= 5 for slot in other.batch(4))
