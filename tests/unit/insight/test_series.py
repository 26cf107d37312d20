"""Fewer points and less noise, without losing what a chart is read for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_resume.insight.series import downsampled, smoothed, smoothing_weight

pytestmark = pytest.mark.quick

LISTS = st.lists(st.floats(-1e6, 1e6), max_size=300).map(lambda values: [(float(x), y) for x, y in enumerate(values)])


@given(LISTS, st.integers(4, 50))
def test_a_thinned_curve_is_part_of_the_whole_in_order_with_its_ends_and_extremes(
    points: list[tuple[float, float]], at_most: int
) -> None:
    thin = downsampled(points, at_most)
    assert len(thin) <= at_most
    assert thin == sorted(set(thin))
    assert set(thin) <= set(points)
    if points:
        assert (thin[0], thin[-1]) == (points[0], points[-1])
        for extreme in (min, max):
            assert extreme(y for _, y in thin) == extreme(y for _, y in points)


def test_what_is_not_finite_is_left_out() -> None:
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 2.0)]
    assert downsampled(points, 10) == smoothed(points, 0.0) == [(0.0, 1.0), (3.0, 2.0)]


def test_a_constant_stays_itself_from_the_first_value_on() -> None:
    assert [y for _, y in smoothed([(float(x), 2.0) for x in range(50)], 0.95)] == pytest.approx([2.0] * 50)


def test_smoothing_is_a_mean_that_forgets() -> None:
    assert smoothed([(0.0, 0.0), (1.0, 1.0)], 0.5)[1][1] == pytest.approx(2 / 3)


def test_few_points_are_not_smoothed_and_many_are() -> None:
    assert smoothing_weight(29) == 0.0
    assert smoothing_weight(30) == pytest.approx(0.8)
    assert smoothing_weight(3000) == pytest.approx(0.99)


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(ValueError, match="at_most"):
        downsampled([], 3)
    with pytest.raises(ValueError, match="weight"):
        smoothed([], 1.0)
