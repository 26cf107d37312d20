"""Signals as notices. The handler sets a value and does nothing else: no lock, no log line, no file."""

from __future__ import annotations

import signal
from types import FrameType

from dreambooth_resume.runs.notice import Notice

COME_BACK = 75
ON_PURPOSE = 76
# Kubernetes, RunPod, SkyPilot and systemd send TERM, a lost terminal HUP, Slurm USR1 or USR2; Ctrl-C is the user.
EXIT_CODES = {
    signal.SIGTERM: COME_BACK,
    signal.SIGHUP: COME_BACK,
    signal.SIGUSR1: COME_BACK,
    signal.SIGUSR2: COME_BACK,
    signal.SIGINT: ON_PURPOSE,
}


class SignalSource:
    """Counts the signals that ask this process to end."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._count = 0

    def install(self) -> None:
        """Take over the signals of EXIT_CODES, but for a SIGHUP that is ignored already.

        Works on the main thread alone, as Python demands.
        """
        for number in EXIT_CODES:
            # `nohup dbr train &` was asked to outlive its terminal.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def notice(self) -> Notice | None:
        """The first signal's notice, with how often any was sent."""
        if self._first is None:
            return None
        received = signal.Signals(self._first)
        return Notice(source=received.name, exit_code=EXIT_CODES[received], insistence=self._count)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._first is None:
            self._first = number
        self._count += 1
