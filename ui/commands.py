"""What the page has done for the user: `dbr` commands in processes of their own, as the user could have typed them.

A command is a list of words, never a shell's line. It outlives the page: ended or killed in between, the page forgets
that it had asked, and the run's home tells the rest.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import IO, Literal

from dreambooth_resume.errors import BadInput

logger = logging.getLogger(__name__)

CommandState = Literal["running", "done", "failed"]
_AT_ONCE = 32
"""Processes of some 60 MB each; a launch may take half an hour, a check of all checkpoints hours."""
_URGENT = ("stop", "save-now", "sample-now")
"""Never refused for those that run: there is one of each for a run at most, and its machine may be about to go."""
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
    """Runs them, each at once, and remembers the last ones."""

    def __init__(
        self,
        *,
        on_end: Callable[[Command], None] = lambda _command: None,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = (sys.executable, "-m", "dreambooth_resume"),
        at_once: int = _AT_ONCE,
    ) -> None:
        """`environment` is that of the processes; None: this one's. `on_end` is called before an end is seen here."""
        self._program = tuple(program)
        self._at_once = at_once
        self._environment = None if environment is None else dict(environment)
        self._kept: list[Command] = []
        self._lock = threading.Condition()
        self._is_closing = False
        self._on_end = on_end

    def begin(self, home: str, verb: str, words: Sequence[str]) -> Command:
        """Start `dbr WORDS`. While the same runs for this home, that one is returned.

        Raises BadInput while `verb` runs for this home with other words, while `at_once` others run, and for words that
        no process can be given.
        """
        _check(words)
        with self._lock:
            running = [one for one in self._kept if one.state == "running"]
            for one in running:
                if (one.home, one.verb) == (home, verb):
                    if one.words == tuple(words):
                        return one
                    raise BadInput(
                        f"{one.typed} is being carried out already", where=home, fix="ask again when it has ended"
                    )
            if len(running) >= self._at_once and verb not in _URGENT:
                raise BadInput(
                    f"{len(running)} commands of this page run already", where=home, fix="ask again when one has ended"
                )
            command = Command(
                id=uuid.uuid4().hex,
                home=home,
                verb=verb,
                words=tuple(words),
                state="running",
                text="",
                at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            over = [one for one in self._kept if one.state != "running"]
            forgotten = over[: max(0, len(self._kept) + 1 - _KEPT)]
            self._kept = [*(one for one in self._kept if one not in forgotten), command]
        # A daemon, as nothing waits for it when the page ends: the command goes on alone.
        threading.Thread(target=self._run, args=(command,), name="dbr-ui-command", daemon=True).start()
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
        """The command as it is once it has ended, after so many seconds, or when the page ends."""
        with self._lock:
            self._lock.wait_for(lambda: self._is_closing or self._now(command).state != "running", timeout=seconds)
            return self._now(command)

    def close(self) -> None:
        """Nobody waits any more. What runs goes on."""
        with self._lock:
            self._is_closing = True
            self._lock.notify_all()

    def _now(self, command: Command) -> Command:
        return next((one for one in self._kept if one.id == command.id), command)

    def _run(self, command: Command) -> None:
        try:
            code, text = self._carried_out(command.words)
        except Exception:
            # A thread's root: it would be shown as running for ever, and the same could not be asked for again.
            logger.exception("A command of the page failed")
            code, text = 1, "the page could not carry it out; its own output says why"
        ended_at = datetime.now(UTC).isoformat(timespec="seconds")
        ended = replace(command, state="done" if code == 0 else "failed", text=text, ended_at=ended_at)
        try:
            self._on_end(ended)
        finally:
            with self._lock:
                self._kept = [ended if one.id == command.id else one for one in self._kept]
                self._lock.notify_all()

    def _carried_out(self, words: Sequence[str]) -> tuple[int, str]:
        """Exit code and what was printed.

        A session of its own: Ctrl-C in the page's terminal doesn't reach it. It prints to files and not to pipes: once
        the page has ended, its next line would end it, too.
        """
        with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as told:
            try:
                code = subprocess.run(
                    [*self._program, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=told,
                    timeout=_TIMEOUT_SECONDS,
                    env=self._environment,
                    start_new_session=True,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                return 1, f"did not end within {_TIMEOUT_SECONDS / 3600:.0f} hours"
            except OSError as error:
                return 1, f"could not be started: {error}"
            said = _end_of(printed) if code == 0 else f"{_end_of(printed)}\n{_end_of(told)}"
            return code, said.strip()[-_TEXT_KEPT:]


def _check(words: Sequence[str]) -> None:
    """Raises BadInput for what a browser may send and no process can be given: a zero byte, half a letter."""
    for word in words:
        try:
            is_fit = b"\0" not in os.fsencode(word)
        except UnicodeEncodeError:
            is_fit = False
        if not is_fit:
            raise BadInput("holds a letter that no command can be given", where=ascii(word)[:200], fix="type it anew")


def _end_of(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 4 * _TEXT_KEPT))  # a letter has four bytes at most
    return file.read().decode(errors="replace")
