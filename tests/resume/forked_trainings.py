"""A prelude of a forked `dbr supervise`: its trainings are forked, not executed, which takes 1 s and not 6 s for each.

A training is a process in a group of its own, as with an exec; a signal or an `os._exit` ends it for real.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

from dreambooth_resume.cli.main import main
from dreambooth_resume.launch import entrypoint
from dreambooth_resume.workflows import supervise

PRELUDE = "tests.resume.forked_trainings:fork_trainings"
_POLL_SECONDS = 0.01


class ForkedTraining:
    """What the supervisor uses of a `Popen`."""

    def __init__(self, words: Sequence[str], *, env: Mapping[str, str], **_options: Any) -> None:
        self._code: int | None = None
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _begin(words[len(entrypoint.DBR) :], env)

    def poll(self) -> int | None:
        if self._code is None:
            found, status = os.waitpid(self._pid, os.WNOHANG)
            if found == self._pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("dbr train", timeout)
            time.sleep(_POLL_SECONDS)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._pid, number)


def fork_trainings() -> None:
    """For the supervisor of this process. It copies no output: its thread for that might hold a lock at the fork."""
    entrypoint.subprocess = SimpleNamespace(  # type: ignore[assignment,attr-defined]
        Popen=ForkedTraining, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
    supervise._copied_output = lambda *_: contextlib.nullcontext()  # type: ignore[assignment]


def _begin(words: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    code = 70
    try:
        os.setpgid(0, 0)
        # What an exec does to a handler of our own.
        for number in entrypoint.EXIT_CODES:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(environment)
        code = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
