"""What a visitor waits for: a `dbr` command in a process of its own, which ends when nobody waits for it any more.

Unlike the commands of commands.py it changes no run, so that nothing is lost when the tab that asked for it is gone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

logger = logging.getLogger(__name__)

ErrandState = Literal["waiting", "running", "done", "failed", "ended"]
"""`waiting`: others are before it. `ended`: by its visitor, or because nobody looked any more."""

UNWATCHED_SECONDS = 90.0
"""A hidden tab looks once a minute; one that is closed never again."""
_LEFT_SECONDS = 10.0
"""For a tab whose connection broke to come back."""
_LONGEST_SECONDS = 3600.0
_GRACE_SECONDS = 10.0
"""For the process to end by itself, before it is killed."""
_POLL_SECONDS = 0.2
_KEPT = 50
_WAITING_MAX = 20
_TEXT_KEPT = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """One errand as it stands."""

    id: str
    words: tuple[str, ...]
    state: ErrandState
    ahead: int
    """How many have their turn before it."""
    lines: tuple[str, ...]
    """What it has told on its way."""
    output: str
    """What it printed, once it has ended."""
    seconds: float
    """Since its turn came."""

    @property
    def is_over(self) -> bool:
        return self.state not in ("waiting", "running")

    @property
    def typed(self) -> str:
        """As the user would type it."""
        return shlex.join(["dbr", *self.words])


@dataclass(slots=True, kw_only=True)
class _Kept:
    """An errand that somebody asked for; changed under the lock alone."""

    words: tuple[str, ...]
    tab: str
    looked_at: float
    state: ErrandState = "waiting"
    began_at: float | None = None
    ended_at: float | None = None
    told: Path | None = None
    output: str = ""
    lines: tuple[str, ...] = ()
    is_unwanted: threading.Event = field(default_factory=threading.Event)


class Errands:
    """One after the other, in the order in which they were asked for. `close` ends what runs."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "dreambooth_resume"),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`environment` is that of the processes; None: this one's."""
        self._program = tuple(program)
        self._environment = None if environment is None else dict(environment)
        self._monotonic = monotonic
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Condition()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def begin(self, words: Sequence[str], *, tab: str = "") -> str | None:
        """Ask for `dbr WORDS`, for a tab of a browser; returns its id, or None if too many wait already.

        A tab shows one: what it asked for before is ended.
        """
        with self._lock:
            self.end_of(tab)
            if sum(one.state == "waiting" for one in self._kept.values()) >= _WAITING_MAX or self._is_closing:
                return None
            made = uuid.uuid4().hex
            self._kept[made] = _Kept(words=tuple(words), tab=tab, looked_at=self._monotonic())
            over = [name for name, one in self._kept.items() if one.ended_at is not None]
            for name in over[: max(0, len(self._kept) - _KEPT)]:
                del self._kept[name]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dbr-ui-errands", daemon=True)
                self._thread.start()
            self._lock.notify_all()
            return made

    def look(self, name: str) -> Errand | None:
        """How it stands, and that somebody waits for it; None for one that is not known (any more)."""
        with self._lock:
            one = self._kept.get(name)
            if one is None:
                return None
            one.looked_at = self._monotonic()
            earlier = list(self._kept)[: list(self._kept).index(name)]
            ahead = sum(self._kept[other].ended_at is None for other in earlier) if one.state == "waiting" else 0
            if one.state == "running" and one.told is not None:
                one.lines = _lines(one.told)
            until = one.ended_at if one.ended_at is not None else self._monotonic()
            seconds = 0.0 if one.began_at is None else until - one.began_at
            return Errand(
                id=name, words=one.words, state=one.state, ahead=ahead, lines=one.lines, output=one.output,
                seconds=seconds,
            )  # fmt: skip

    def end(self, name: str) -> None:
        """Nobody wants it any more."""
        with self._lock:
            one = self._kept.get(name)
            if one is not None:
                self._give_up(one)

    def end_of(self, tab: str) -> None:
        """A tab wants something else, or nothing."""
        with self._lock:
            for one in self._kept.values():
                if tab and one.tab == tab:
                    self._give_up(one)

    def _give_up(self, one: _Kept) -> None:
        if one.ended_at is not None:
            return
        one.is_unwanted.set()
        if one.state == "waiting":
            one.state, one.ended_at = "ended", self._monotonic()

    def leave(self, tab: str) -> None:
        """A tab was closed, or lost its connection for a moment: what it waits for has little time left."""
        with self._lock:
            for one in self._kept.values():
                if tab and one.tab == tab:
                    one.looked_at = min(one.looked_at, self._monotonic() - UNWATCHED_SECONDS + _LEFT_SECONDS)

    def close(self) -> None:
        """End what runs, and begin nothing more."""
        with self._lock:
            self._is_closing = True
            for one in self._kept.values():
                one.is_unwanted.set()
            self._lock.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=2 * _GRACE_SECONDS)

    def _run(self) -> None:
        while (one := self._next()) is not None:
            try:
                state, lines, output = self._carry_out(one)
            except Exception:
                # A thread's root: those who wait would wait for ever.
                logger.exception("An errand of the page failed")
                state, lines, output = "failed", (), "the page could not carry it out; its own output says why"
            with self._lock:
                one.state, one.lines, one.output, one.ended_at = state, lines, output, self._monotonic()

    def _next(self) -> _Kept | None:
        """The next one whose visitor still waits; None at the end."""
        with self._lock:
            while not self._is_closing:
                for one in self._kept.values():
                    if one.state != "waiting":
                        continue
                    if self._is_left(one):
                        one.state, one.ended_at = "ended", self._monotonic()
                        continue
                    one.state, one.began_at = "running", self._monotonic()
                    return one
                self._lock.wait(timeout=60.0)
            return None

    def _is_left(self, one: _Kept) -> bool:
        return one.is_unwanted.is_set() or self._monotonic() - one.looked_at > UNWATCHED_SECONDS

    def _carry_out(self, one: _Kept) -> tuple[ErrandState, tuple[str, ...], str]:
        with tempfile.TemporaryDirectory(prefix="dbr-ui-errand-") as folder:
            told, printed = Path(folder) / "told", Path(folder) / "printed"
            with told.open("wb") as told_to, printed.open("wb") as printed_to:
                try:
                    process = self._started(one.words, printed_to, told_to)
                except (OSError, ValueError) as error:
                    return "failed", (), f"could not be started: {error}"
                with self._lock:
                    one.told = told
                state = self._waited_for(one, process)
            lines, output = _lines(told), printed.read_bytes()[-_TEXT_KEPT:].decode(errors="replace")
            with self._lock:
                one.told = None
        return state, lines, output

    def _started(self, words: Sequence[str], printed: IO[bytes], told: IO[bytes]) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the page's terminal doesn't reach it, and it is ended with all that it starts.
        return subprocess.Popen(
            [*self._program, *words],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=told,
            env=self._environment,
            start_new_session=True,
        )

    def _waited_for(self, one: _Kept, process: subprocess.Popen[bytes]) -> ErrandState:
        while process.poll() is None:
            too_long = one.began_at is not None and self._monotonic() - one.began_at > _LONGEST_SECONDS
            if too_long or self._is_left(one):
                _end(process)
                return "ended"
            one.is_unwanted.wait(_POLL_SECONDS)
        return "done" if process.returncode == 0 else "failed"


def _end(process: subprocess.Popen[bytes]) -> None:
    """By SIGTERM, and after a while by SIGKILL, which those get that it has left behind, too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _lines(told: Path) -> tuple[str, ...]:
    try:
        body = told.read_bytes()[-_TEXT_KEPT:]
    except FileNotFoundError:
        return ()
    return tuple(body.decode(errors="replace").splitlines())
