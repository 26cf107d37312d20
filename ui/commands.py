"""What the page has done for the user: `dbr` commands in processes of their own, as the user could have typed them.

A command is a list of words, never a shell's line. It outlives the page: killed in between, the page forgets that it
had asked, and the run's home tells the rest.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

CommandState = Literal["running", "done", "failed"]
_AT_ONCE = 8
_KEPT = 200
_TIMEOUT_SECONDS = 12 * 3600.0
_TEXT_KEPT = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command of the page. `text` is what it said at its end, or what it says now."""

    id: str
    home: str
    verb: str
    words: tuple[str, ...]
    state: CommandState
    text: str
    at: str
    """ISO 8601, UTC."""
    ended_at: str | None = None
    """ISO 8601, UTC; None while it hasn't ended."""

    @property
    def typed(self) -> str:
        """As the user would type it."""
        return shlex.join(["dbr", *self.words])


class Commands:
    """Runs them, a few at a time, and remembers the last ones."""

    def __init__(
        self,
        *,
        on_end: Callable[[Command], None] = lambda _command: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment` is that of the processes; None: this one's."""
        self._environment = None if environment is None else dict(environment)
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="dbr-ui-command")
        self._kept: deque[Command] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._on_end = on_end

    def begin(self, home: str, verb: str, words: Sequence[str]) -> Command:
        """Start `dbr WORDS`. While the same `verb` runs for this home, that one is returned."""
        with self._lock:
            for command in self._kept:
                if (command.home, command.verb, command.state) == (home, verb, "running"):
                    return command
            command = Command(
                id=uuid.uuid4().hex,
                home=home,
                verb=verb,
                words=tuple(words),
                state="running",
                text="",
                at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            self._kept.append(command)
        self._pool.submit(self._run, command)
        return command

    def of(self, home: str) -> tuple[Command, ...]:
        """Those of one home, the newest first."""
        with self._lock:
            return tuple(command for command in reversed(self._kept) if command.home == home)

    def newest(self, *, at_most: int = 10) -> tuple[Command, ...]:
        """Of all homes, the newest first."""
        with self._lock:
            return tuple(reversed(self._kept))[:at_most]

    def wait(self, command: Command, *, seconds: float) -> Command:
        """The command as it is once it has ended, or after so many seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            now = self._now(command)
            if now.state != "running":
                return now
            time.sleep(0.1)
        return self._now(command)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _now(self, command: Command) -> Command:
        with self._lock:
            return next((one for one in self._kept if one.id == command.id), command)

    def _run(self, command: Command) -> None:
        code, text = _output_of(command.words, self._environment)
        ended_at = datetime.now(UTC).isoformat(timespec="seconds")
        ended = replace(command, state="done" if code == 0 else "failed", text=text, ended_at=ended_at)
        with self._lock:
            for place, one in enumerate(self._kept):
                if one.id == command.id:
                    self._kept[place] = ended
        self._on_end(ended)


def _output_of(words: Sequence[str], environment: Mapping[str, str] | None) -> tuple[int, str]:
    """Exit code and what was printed. A session of its own: Ctrl-C in the page's terminal doesn't reach it."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "dreambooth_resume", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_SECONDS,
            env=environment,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"did not end within {_TIMEOUT_SECONDS / 3600:.0f} hours"
    except OSError as error:
        return 1, f"could not be started: {error}"
    said = done.stdout if done.returncode == 0 else f"{done.stdout}\n{done.stderr}"
    return done.returncode, said.strip()[-_TEXT_KEPT:]
