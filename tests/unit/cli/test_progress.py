"""Progress: which lines are printed where there is no terminal, and what the bar shows on one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dreambooth_resume.cli.progress import BarReporter, LineReporter, make_reporter
from dreambooth_resume.cli.wording import ago, clock, count, size
from dreambooth_resume.training.progress import Reporter, StepUpdate


def update(step: int, *, durable_step: int | None = 100, alarm: str | None = None) -> StepUpdate:
    return StepUpdate(
        step=step,
        max_train_steps=500,
        loss=0.08312,
        learning_rate=1e-4,
        samples_per_second=3.21,
        durable_step=durable_step,
        alarm=alarm,
    )


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Lines:
    """A line reporter with its clock and what it printed."""

    def __init__(self, progress_seconds: float = 10.0) -> None:
        self.clock = Clock()
        self.printed: list[str] = []
        self.reporter = LineReporter(progress_seconds=progress_seconds, write=self.printed.append, monotonic=self.clock)


def test_a_line_says_step_loss_rate_speed_durable_step_and_time_left() -> None:
    lines = Lines()
    lines.reporter.step(update(119))
    lines.clock.now += 10.0
    lines.reporter.step(update(120))
    assert lines.printed[1] == "step 120/500  loss 0.0831  lr 1.0e-04  3.2 samples/s  durable 100  left 1:03:20"
    assert lines.printed[0].endswith("durable 100  left -")


def test_lines_come_at_the_first_and_last_step_and_every_so_often_between() -> None:
    lines = Lines(progress_seconds=10.0)
    for step in range(1, 501):
        lines.reporter.step(update(step))
        lines.clock.now += 0.1
    shown = [int(line.split()[1].partition("/")[0]) for line in lines.printed]
    assert shown[0] == 1
    assert shown[-1] == 500
    assert 5 <= len(shown) <= 7


def test_where_an_interrupted_training_came_to_is_shown_before_what_is_said_about_it() -> None:
    lines = Lines()
    for step in (1, 2, 3):
        lines.reporter.step(update(step))
    lines.reporter.message("SIGTERM: saving step 3, then leaving.")
    lines.reporter.close()
    assert [line[:10] for line in lines.printed] == ["step 1/500", "step 3/500", "SIGTERM: s"]


def test_closing_shows_the_last_step_once() -> None:
    lines = Lines()
    lines.reporter.step(update(1))
    lines.reporter.step(update(2))
    lines.reporter.close()
    lines.reporter.close()
    assert [line[:10] for line in lines.printed] == ["step 1/500", "step 2/500"]


def test_an_alarm_is_shouted_once_and_its_end_said_once() -> None:
    lines = Lines()
    for step, alarm in enumerate([None, "disk full", "disk full", None, None], start=1):
        lines.reporter.step(update(step, alarm=alarm))
    loud = [line for line in lines.printed if not line.startswith("step")]
    assert loud == ["NOT SAVED since step 100: disk full Training goes on; saving is tried again.", "Saved again."]


def test_a_phase_shows_its_first_and_last_and_every_so_often_between() -> None:
    lines = Lines(progress_seconds=10.0)
    for done in range(65):
        lines.reporter.phase("encoding pictures", done, 64)
        lines.clock.now += 1.0
    assert lines.printed[0] == "encoding pictures 0/64"
    assert lines.printed[-1] == "encoding pictures 64/64"
    assert len(lines.printed) == 8


def test_time_left_follows_the_last_steps_and_not_the_slow_first_one() -> None:
    lines = Lines(progress_seconds=0.001)
    lines.reporter.step(update(1))
    lines.clock.now += 1000.0
    for step in range(2, 200):
        lines.reporter.step(update(step))
        lines.clock.now += 1.0
    assert lines.printed[-1].endswith("left 5:01")


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    reporter: Reporter = make_reporter(10.0)
    assert isinstance(reporter, LineReporter)
    reporter.message("hello")
    assert capsys.readouterr().out == "hello\n"


def test_on_a_terminal_a_bar_shows_the_same_and_messages_stay_above_it() -> None:
    screen = io.StringIO()
    reporter: Reporter = BarReporter(Console(file=screen, force_terminal=True, width=120, highlight=False))
    reporter.phase("encoding pictures", 3, 64)
    reporter.message("[not markup]")
    reporter.step(update(120, durable_step=None, alarm="disk full"))
    reporter.close()
    reporter.close()
    text = screen.getvalue()
    assert "[not markup]" in text
    assert "120/500" in text
    assert "loss 0.0831  lr 1.0e-04  3.2 samples/s  durable -" in text
    assert "NOT SAVED yet: disk full" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (clock(None), "-"),
        (clock(4.4), "0:04"),
        (clock(59.6), "1:00"),
        (clock(3731), "1:02:11"),
        (ago(None), "-"),
        (ago(14.2), "14 s ago"),
        (ago(240), "4 min ago"),
        (ago(3 * 3600), "3 h ago"),
        (ago(3 * 86400), "3 days ago"),
        (size(541), "541 bytes"),
        (size(717_700), "717.7 kB"),
        (size(24_000_000), "24.0 MB"),
        (size(7_400_000_000), "7.4 GB"),
        (count(1, "step"), "1 step"),
        (count(1200, "step"), "1,200 steps"),
    ],
)
def test_numbers_are_said_as_people_say_them(words: str, expected: str) -> None:
    assert words == expected
