"""Checks on threads of their own, with an end: what has not answered by then is a finding itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from dreambooth_resume.errors import DbrError
from dreambooth_resume.insight.findings import Finding, of_error

Answer = TypeVar("Answer")
Check = Callable[[], list[Finding]]

THREAD_PREFIX = "dbr-doctor-"
"""Of threads that may still wait for an answer when the command ends: nobody waits for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Of all checks together."""

    seconds: float
    began_monotonic_s: float

    @property
    def left_seconds(self) -> float:
        return max(0.0, self.began_monotonic_s + self.seconds - time.monotonic())


class NoAnswer(Exception):
    """The time was over first. Internal: callers turn it into a finding."""


class Running(Generic[Answer]):
    """A question on a thread of its own, which does not keep the process from ending."""

    def __init__(self, about: str, ask: Callable[[], Answer]) -> None:
        self.about = about
        self._ask = ask
        self._answers: list[Answer] = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"{THREAD_PREFIX}{about}", daemon=True)
        self._thread.start()

    def answer(self, limit: Limit) -> Answer:
        """Raises NoAnswer where none has come in time, and what the question has raised."""
        self._thread.join(limit.left_seconds)
        if self._error is not None:
            raise self._error
        if not self._answers:
            raise NoAnswer
        return self._answers[0]

    def _run(self) -> None:
        try:
            self._answers.append(self._ask())
        except Exception as error:  # noqa: BLE001  the root of a thread: raised again on the caller's
            self._error = error


def findings_of(running: Running[list[Finding]], limit: Limit) -> list[Finding]:
    """What a check has found: a refusal, or no answer in time, is a finding, too."""
    try:
        return running.answer(limit)
    except DbrError as error:
        return [of_error(running.about, error)]
    except NoAnswer:
        return [no_answer(running.about, limit)]


def side_by_side(checks: Mapping[str, Check], limit: Limit) -> list[Finding]:
    """What all of them have found, in their order."""
    running = [Running(about, check) for about, check in checks.items()]
    return [finding for one in running for finding in findings_of(one, limit)]


def no_answer(about: str, limit: Limit) -> Finding:
    what = f"no answer within {limit.seconds:.0f} s"
    return Finding(severity="warning", about=about, what=what, fix="look at the network, then again")
