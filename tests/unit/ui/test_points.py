"""From a curve of any length to the few points of a chart."""

from __future__ import annotations

import json
import math

import pytest

from dreambooth_resume.runs.curves import Curve, CurvePoint, Interruption
from dreambooth_resume.ui.points import POINTS_SHOWN, chart, smoothed, thinned


def curve(losses: list[float], *, seconds: float | None = 0.5, memory_bytes: int | None = None) -> Curve:
    points = tuple(
        CurvePoint(step=step, attempt=1, loss=loss, learning_rate=1e-4, seconds=seconds, memory_bytes=memory_bytes)
        for step, loss in enumerate(losses, start=1)
    )
    broken = Interruption(attempt=1, reached_step=9, resumed_step=7, exit_code=None, reason='lost "</script>"')
    return Curve(points=points, lost=(points[:2],), spans=(), interruptions=(broken,), max_train_steps=len(losses))


def test_thinning_keeps_the_order_the_ends_and_every_spike() -> None:
    points = [(step, 1.0) for step in range(50_000)]
    points[31_337] = (31_337, 99.0)
    points[777] = (777, -5.0)
    few = thinned(points)
    assert len(few) <= POINTS_SHOWN
    assert few == sorted(few)
    assert (31_337, 99.0) in few
    assert (777, -5.0) in few
    assert thinned(points[:100]) == points[:100]


def test_smoothing_begins_at_the_first_value_and_follows() -> None:
    made = smoothed([(step, 2.0) for step in range(10)])
    assert [value for _, value in made] == pytest.approx([2.0] * 10)
    rising = smoothed([(step, float(step)) for step in range(200)], keep=0.5)
    assert rising[0][1] == 0.0
    assert 197 < rising[-1][1] < 199


def test_a_chart_has_lines_marks_and_no_number_that_json_lacks() -> None:
    made = json.loads(chart(curve([1.0, math.nan, 0.5, math.inf, 0.25]), "loss", effective_batch=4))
    assert made["lines"][0] == {"name": "loss", "style": "raw", "points": [[1, 1.0], [3, 0.5], [5, 0.25]]}
    assert [line["style"] for line in made["lines"]] == ["raw", "main", "lost"]
    assert made["marks"][0]["step"] == 7
    assert "went on from 7" in made["marks"][0]["text"]
    speed = json.loads(chart(curve([1.0, 1.0]), "speed", effective_batch=4))
    assert speed["lines"][0]["points"] == [[1, 8.0], [2, 8.0]]
    memory = json.loads(chart(curve([1.0, 1.0], memory_bytes=2_500_000_000), "memory", effective_batch=4))
    assert memory["lines"][0]["points"] == [[1, 2.5], [2, 2.5]]
    unknown = json.loads(chart(curve([1.0], seconds=None), "speed", effective_batch=None))
    assert unknown["lines"][0]["points"] == []
