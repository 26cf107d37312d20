"""Processes that train a stretch, one after the other, watched from outside by what they print and how they end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dreambooth_resume.errors import ComeBack, DbrError
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.workflows.held_signals import signals_held_back
from dreambooth_resume.workflows.stretch import Cut, Stretch

_PROGRAM = (sys.executable, "-m", "dreambooth_resume.cli.stretch")
_LOOK_SECONDS = 0.05
_SILENT_SECONDS_MAX = 1800.0
"""A process that prints nothing for so long is ended: no model takes longer to load, and no step to make."""
_STEP = re.compile(r"^step (\d+)/", re.M)
_TAIL_LINES = 15


class NotVerified(DbrError):
    """The training itself did not work, so there is nothing to compare; ends with the code that it ended with."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Child(Protocol):
    """A process that was started."""

    def poll(self) -> int | None:
        """Its exit code, minus the signal's number if one ended it; None while it lives."""
        ...

    def kill(self) -> None:
        """End it. One that ended already is fine."""
        ...


Spawn = Callable[[Sequence[str], Path], Child]
"""(words behind the program, file for its output) -> a process of `dreambooth_resume.cli.stretch`."""


def spawn_process(words: Sequence[str], output: Path) -> Child:
    with output.open("ab") as log:
        return subprocess.Popen([*_PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One process. Steps are those that it printed; `began_step` is the one that it went on from."""

    began_step: int
    reached_step: int
    cut: Cut | None
    exit_code: int

    @property
    def is_killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL

    @property
    def ended(self) -> str:
        """In a word or three."""
        return f"killed {self.cut.kind}" if self.cut is not None and self.is_killed else "stopped by itself"


def live(spawn: Spawn, stretch: Stretch, *, name: str, output: Path, base_step: int, reporter: Reporter) -> Life:
    """Run one process to its end. Raises NotVerified if it ends otherwise than it was told to, or falls silent."""
    file = output.with_suffix(".json")
    file.write_text(stretch.model_dump_json())
    output.touch()
    reporter.phase(f"{name}: starting", 0, 1)
    child: Child | None = None
    try:
        with signals_held_back():
            child = spawn([str(file)], output)
        code = _watch(child, output, name, stretch.until_step, reporter)
    finally:
        if child is not None:
            child.kill()
    steps = _steps(output)
    life = Life(
        began_step=steps[0] - 1 if steps else base_step,
        reached_step=steps[-1] if steps else base_step,
        cut=stretch.cut,
        exit_code=code,
    )
    if code not in (0, ComeBack.exit_code) and not (life.is_killed and stretch.cut is not None):
        raise NotVerified(
            f"{name}: the training ended with exit code {code}, so there is nothing to compare. It said:\n  "
            + "\n  ".join(_tail(output)),
            exit_code=code if code > 0 else DbrError.exit_code,
        )
    return life


def _watch(child: Child, output: Path, name: str, until_step: int, reporter: Reporter) -> int:
    """Show how far it is until it ends; its exit code."""
    size, silent_since = 0, time.monotonic()
    while (code := child.poll()) is None:
        if (now_size := output.stat().st_size) != size:
            size, silent_since = now_size, time.monotonic()
            if steps := _steps(output):
                reporter.phase(f"{name}: training", steps[-1], until_step)
        elif time.monotonic() - silent_since > _SILENT_SECONDS_MAX:
            raise NotVerified(
                f"{name}: the training said nothing for {_SILENT_SECONDS_MAX:.0f} s and was ended. It last said:\n  "
                + "\n  ".join(_tail(output)),
                exit_code=DbrError.exit_code,
            )
        time.sleep(_LOOK_SECONDS)
    return code


def _steps(output: Path) -> list[int]:
    return [int(number) for number in _STEP.findall(output.read_text(errors="replace"))]


def _tail(output: Path) -> list[str]:
    return output.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
