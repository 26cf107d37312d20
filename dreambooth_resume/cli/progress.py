"""Progress of a training: a bar on a terminal, plain lines where there is none."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from dreambooth_resume.cli.wording import UNKNOWN, clock
from dreambooth_resume.training.progress import Reporter, StepUpdate

_RATE_WINDOW_STEPS = 50
_REFRESHES_PER_SECOND = 5.0
_TRAINING = "training"


def make_reporter(progress_seconds: float) -> Reporter:
    """The reporter for this standard output. `progress_seconds` lies between two plain lines."""
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return BarReporter(console)
    return LineReporter(progress_seconds=progress_seconds)


class ReporterHandler(logging.Handler):
    """Log records as messages of a reporter, so that they stand above the bar and not in it."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.INFO)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        self._reporter.message(warning + self.format(record))


@contextlib.contextmanager
def log_shown_by(reporter: Reporter) -> Iterator[None]:
    """Show what the package logs, from INFO on, through `reporter`."""
    package, handler = logging.getLogger("dreambooth_resume"), ReporterHandler(reporter)
    before = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)


def describe_step(update: StepUpdate, *, seconds_left: float | None) -> str:
    """`step 120/500  loss 0.0831  lr 1.0e-04  3.2 samples/s  durable 100  left 2:04`."""
    return f"step {update.step}/{update.max_train_steps}  {_values(update)}  left {clock(seconds_left)}"


class TimeLeft:
    """Seconds to the last step, from the pace of the last 50 steps: pace changes, and the first steps are slow."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._seen: deque[tuple[int, float]] = deque(maxlen=_RATE_WINDOW_STEPS)

    def after(self, update: StepUpdate) -> float | None:
        """None until two steps were seen."""
        self._seen.append((update.step, self._monotonic()))
        (first_step, first), (last_step, last) = self._seen[0], self._seen[-1]
        if last_step <= first_step:
            return None
        return (last - first) / (last_step - first_step) * max(0, update.max_train_steps - update.step)


class LineReporter:
    """A line at the first step, at the last, and every `progress_seconds` between."""

    def __init__(
        self,
        *,
        progress_seconds: float,
        write: Callable[[str], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress_seconds = progress_seconds
        self._write = write or _print_now
        self._monotonic = monotonic
        self._time_left = TimeLeft(monotonic)
        self._next_line = monotonic()
        self._phase: str | None = None
        self._unshown: StepUpdate | None = None
        self._seconds_left: float | None = None
        self._alarm: str | None = None

    def message(self, text: str) -> None:
        # How far the training came is what everybody asks who reads "saving, then leaving".
        self._show_step()
        self._write(text)

    def phase(self, name: str, done: int, total: int) -> None:
        if name != self._phase or done >= total or self._monotonic() >= self._next_line:
            self._phase = name
            self._line(f"{name} {done}/{total}")

    def step(self, update: StepUpdate) -> None:
        if update.alarm != self._alarm:
            self._alarm = update.alarm
            self._write(_describe_alarm(update))
        self._unshown, self._seconds_left = update, self._time_left.after(update)
        is_first = self._phase != _TRAINING
        self._phase = _TRAINING
        if is_first or update.step >= update.max_train_steps or self._monotonic() >= self._next_line:
            self._show_step()

    def close(self) -> None:
        self._show_step()

    def _show_step(self) -> None:
        if self._unshown is not None:
            self._line(describe_step(self._unshown, seconds_left=self._seconds_left))
            self._unshown = None

    def _line(self, text: str) -> None:
        self._write(text)
        self._next_line = self._monotonic() + self._progress_seconds


class BarReporter:
    """One bar at the foot of the terminal, messages above it. Drawn five times a second, whatever the step rate."""

    def __init__(self, console: Console, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._time_left = TimeLeft(monotonic)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[values]}"),
            console=console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,  # what stays on the screen at the end are the messages: where everything is
        )
        self._task: TaskID | None = None
        self._name: str | None = None
        self._alarm: str | None = None

    def message(self, text: str) -> None:
        self._progress.console.print(text, markup=False, soft_wrap=True)

    def phase(self, name: str, done: int, total: int) -> None:
        self._show(name, done, total, "")

    def step(self, update: StepUpdate) -> None:
        if update.alarm != self._alarm:
            self._alarm = update.alarm
            self.message(_describe_alarm(update))
        left = clock(self._time_left.after(update))
        warning = "[bold red]NOT SAVED[/]  " if update.alarm else ""
        self._show(_TRAINING, update.step, update.max_train_steps, f"{warning}{_values(update)}  left {left}")

    def close(self) -> None:
        self._progress.stop()

    def _show(self, name: str, done: int, total: int, values: str) -> None:
        if self._task is None or name != self._name:
            if self._task is None:
                self._progress.start()
            else:
                self._progress.remove_task(self._task)
            self._task, self._name = self._progress.add_task(name, total=total, values=values), name
        self._progress.update(self._task, completed=done, total=total, values=values)


def _values(update: StepUpdate) -> str:
    durable = UNKNOWN if update.durable_step is None else str(update.durable_step)
    return (
        f"loss {update.loss:.4f}  lr {update.learning_rate:.1e}  {update.samples_per_second:.1f} samples/s  "
        f"durable {durable}"
    )


def _describe_alarm(update: StepUpdate) -> str:
    if update.alarm is None:
        return "Saved again."
    since = "yet" if update.durable_step is None else f"since step {update.durable_step}"
    return f"NOT SAVED {since}: {update.alarm} Training goes on; saving is tried again."


def _print_now(text: str) -> None:
    try:
        print(text, file=sys.stdout, flush=True)
    except BrokenPipeError:
        raise  # `dbr train | head`: the reader has left, and ends us as it does any program
    except OSError:
        # Output to a file on a full disk must not end a training that could go on. What can't be written is dropped
        # with its stream: kept in the buffer, it would fail every later line too, and the exit code at the end.
        sys.stdout = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace")
