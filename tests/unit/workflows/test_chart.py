"""The chart draws any curve that a run can have."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from dreambooth_resume.runs.curves import Curve, CurvePoint, Interruption, Span
from dreambooth_resume.workflows.chart import draw_loss_curve


def points(attempt: int, above: int, up_to: int, *, loss: float = 0.1) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(step=step, attempt=attempt, loss=loss) for step in range(above + 1, up_to + 1))


def curve_of(attempts: int, *, loss: float = 0.1) -> Curve:
    """Each attempt trains ten steps, and all but the last lose three of them."""
    ends = [7 * number + 10 for number in range(attempts)]
    return Curve(
        points=tuple(
            point for number in range(attempts) for point in points(number + 1, 7 * number, 7 * number + 7, loss=loss)
        ),
        lost=tuple(points(number + 1, end - 3, end) for number, end in enumerate(ends[:-1])),
        spans=tuple(Span(attempt=number + 1, base_step=end - 10, reached_step=end) for number, end in enumerate(ends)),
        interruptions=tuple(
            Interruption(
                attempt=number + 1,
                reached_step=end,
                resumed_step=end - 3,
                exit_code=75 if number % 2 else None,
                reason="",
            )
            for number, end in enumerate(ends[:-1])
        ),
        max_train_steps=ends[-1],
    )


@pytest.mark.parametrize("attempts", [1, 2, 40])
def test_any_number_of_attempts_is_a_picture(attempts: int) -> None:
    image = Image.open(io.BytesIO(draw_loss_curve(curve_of(attempts), title="runs/dog")))
    assert image.format == "PNG"
    assert 1000 <= image.width <= 1600
    assert 500 <= image.height <= 1200


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_losses_that_are_no_numbers_are_left_out(loss: float) -> None:
    assert draw_loss_curve(curve_of(2, loss=loss), title="x").startswith(b"\x89PNG")


def test_one_step_is_a_picture() -> None:
    curve = Curve(
        points=points(1, 0, 1),
        lost=(),
        spans=(Span(attempt=1, base_step=0, reached_step=1),),
        interruptions=(),
        max_train_steps=500,
    )
    assert draw_loss_curve(curve, title="x").startswith(b"\x89PNG")


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="no step"):
        draw_loss_curve(Curve(points=(), lost=(), spans=(), interruptions=(), max_train_steps=0), title="x")
