"""What every launched machine runs: a training, or an evaluation, again and again by the one restart rule.

The supervisor writes nothing but notes and a copy of the output. Killed, it leaves the training alone, which goes on to
its end; the next supervisor of the home waits for that like any second start.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal

from pydantic import JsonValue

from dreambooth_resume.errors import (
    AccessDenied,
    ComeBack,
    DbrError,
    RefusedToGoOn,
    StoppedOnPurpose,
    StorageUnavailable,
)
from dreambooth_resume.launch.restart_rule import RESTARTS_WITHOUT_PROGRESS, Ending, Verdict, decide, how_it_ended
from dreambooth_resume.launch.starts import count_start, forget_starts
from dreambooth_resume.launch.work import Work
from dreambooth_resume.preemption.deadline import lead_of
from dreambooth_resume.preemption.metadata import MetadataTrouble
from dreambooth_resume.preemption.poller import PolledSource
from dreambooth_resume.preemption.signals import EXIT_CODES
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.notes import post_note, read_notes
from dreambooth_resume.runs.notice import Notice
from dreambooth_resume.storage.base import Storage

DBR = (sys.executable, "-m", "dreambooth_resume")
"""This very program, by the Python that runs it."""
BY_HAND = "by hand"
"""In place of a launch's number where nobody launched it."""
_LAUNCH_VARIABLE = "DBR_LAUNCH"
"""By which what is started here knows whose it is."""
_LOOK_SECONDS = 0.5
_HOLD_LOOK_SECONDS = 5.0
_LAUNCH_ID = re.compile(r"[0-9a-f]{32}")
_LOOKS_AT_A_SOURCE = 3
_ENDING_TAIL_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervised:
    """One home's work under supervision."""

    home: str
    storage: Storage
    work: Work
    launch_id: str
    """Crashes are counted over all supervisors of one launch on one boot of a machine."""
    boot_id: str
    sources: Sequence[PolledSource]
    """Who may say that this machine goes away."""
    tell: Callable[[str], None]
    announce: Callable[[Literal["interrupted", "failed"], str, int], None] = lambda _kind, _words, _code: None
    """Somebody else may want to know: what happened, and the code. For what the training could not say itself."""
    last_output: Callable[[], str] = lambda: ""
    """The last line that the training printed."""
    program: tuple[str, ...] = DBR
    limit_seconds: float | None = None
    """How long the platform lets this machine run from now on, as the training knows by itself too."""
    environment: dict[str, str] | None = None
    pass_descriptors: tuple[int, ...] = ()
    """Kept open in the training: a lock on this machine's GPU outlives a supervisor that is killed."""
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Signals:
    """Hands the platform's signals on to the training, and keeps the first: nothing is started after it."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.child: subprocess.Popen[bytes] | None = None

    def install(self) -> None:
        """Works on the main thread alone, as Python demands."""
        for number in EXIT_CODES:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._forward)

    @property
    def exit_code(self) -> int | None:
        """What to end with because of the first signal; None without any."""
        return None if self.first is None else EXIT_CODES[signal.Signals(self.first)]

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if self.first is None:
            self.first = number
        child = self.child
        if child is not None:
            with contextlib.suppress(OSError):
                child.send_signal(number)


@dataclass(kw_only=True)
class Supervisor:
    """Runs it until the rule says that nobody starts it again."""

    run: Supervised
    signals: Signals = field(default_factory=Signals)
    _endings: list[Ending] = field(default_factory=list)
    _durable_step: int = 0

    def supervise(self) -> int:
        """The exit code to end with."""
        started, work = self.run.monotonic(), self.run.work
        self._endings = self._seen_before()
        going_back: tuple[str, ...] = ()
        while True:
            if (code := self._wait_while_held(started)) is not None:
                return code
            code = self._start(work.command(left_seconds=self._deadline_left(started), back=going_back))
            log = self._look()
            ending = Ending(code=code, durable_step=self._durable_step)
            self._endings.append(ending)
            self._note(ending)
            comes_back = ending.is_crash or code == ComeBack.exit_code
            in_a_row = self._count() if comes_back else 0
            # Told by a signal, the machine is to be free: whatever the training ended with, nothing is started again.
            if (told := self.signals.exit_code) is not None and comes_back and in_a_row < RESTARTS_WITHOUT_PROGRESS:
                return told
            verdict = decide(self._endings, log, what=work.what, unit=work.unit, in_a_row=in_a_row)
            going_back = _kept(going_back, log)
            if verdict.action == "go back":
                going_back = ("--resume", str(verdict.step), "--resume_request_id", verdict.request_id)
            if (ended := self._after(verdict, code)) is not None:
                return ended

    def _after(self, verdict: Verdict, code: int) -> int | None:
        """Say what happens next; the exit code if nothing does. Waits before another start."""
        if verdict.action == "end":
            with contextlib.suppress(DbrError):
                forget_starts(self.run.storage, self.run.launch_id)
            if verdict.exit_code != code:
                self.run.tell(f"Not started again: {verdict.because}. {self.run.work.by_hand}")
                self._post(f"not started again: {verdict.because}", exit_code=verdict.exit_code)
                self.run.announce("failed", f"Not started again: {verdict.because}.", verdict.exit_code)
            elif code not in (0, StoppedOnPurpose.exit_code):
                # Of bad input or missing access the log knows nothing: that ends a start before the run is held.
                last = self.run.last_output()[:_ENDING_TAIL_CHARACTERS]
                self._post(f"{verdict.because}, not started again: {last}".rstrip(": "), exit_code=code)
            return verdict.exit_code
        back = f" one commit back, from step {verdict.step}" if verdict.action == "go back" else ""
        told = f"{verdict.because}: starting again{back} in {verdict.wait_seconds:.0f} s."
        self.run.tell(told)
        if code < 0:
            self.run.announce("interrupted", f"{told[0].upper()}{told[1:]}", code)
        self._sleep(verdict.wait_seconds)
        return None

    def _start(self, words: Sequence[str]) -> int:
        """One process, to its end; its exit code, minus the signal's number if one ended it."""
        if (told := self.signals.exit_code) is not None:
            return told
        child = subprocess.Popen(
            [*self.run.program, *words],
            stdin=subprocess.DEVNULL,
            env=_with_launch(self.run.environment or os.environ, self.run.launch_id),
            pass_fds=self.run.pass_descriptors,
            # A terminal's Ctrl-C reaches a whole group: the training is to hear of it once, from us.
            process_group=0,
        )
        self.signals.child = child
        if (missed := self.signals.first) is not None:
            child.send_signal(missed)
        try:
            while (code := child.poll()) is None:
                # In pieces, so that a signal's handler runs.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=_LOOK_SECONDS)
        finally:
            self.signals.child = None
        return code

    def _deadline_left(self, started: float) -> float | None:
        deadline = self.run.work.deadline_seconds
        return None if deadline is None else deadline - (self.run.monotonic() - started)

    def _time_left(self, started: float) -> float | None:
        """Until a training would be told to leave by the deadline or the platform's limit, whichever is nearer."""
        limits = [limit for limit in (self.run.work.deadline_seconds, self.run.limit_seconds) if limit is not None]
        passed = self.run.monotonic() - started
        return min((limit - lead_of(limit) - passed for limit in limits), default=None)

    def _wait_while_held(self, started: float) -> int | None:
        """Wait while the machine is about to go; the exit code if nothing is to be started any more."""
        told: str | None = None
        while True:
            if (code := self.signals.exit_code) is not None:
                return code
            left_seconds = self._time_left(started)
            # A start that has no time to load what it trains would only cost another reading of the checkpoint.
            if left_seconds is not None and left_seconds < 1.0:
                self.run.tell("The deadline is over: nothing is started any more on this machine.")
                return ComeBack.exit_code
            notice = self._notice()
            if notice is None:
                if told is not None:
                    self.run.tell(f"{told}: withdrawn. Starting{' again' if self._endings else ''}.")
                return None
            if told != notice.source:
                self.run.tell(f"{notice.source}: nothing is started on this machine until that is withdrawn.")
                told = notice.source
            self._sleep(_HOLD_LOOK_SECONDS)

    def _notice(self) -> Notice | None:
        """What is said about this machine now; who doesn't answer is asked again, and then counts as silent."""
        for source in self.run.sources:
            for _ in range(_LOOKS_AT_A_SOURCE):
                try:
                    found = source.look()
                except MetadataTrouble:
                    continue
                if found is not None and not found.is_advice:
                    return found
                break
        return None

    def _sleep(self, seconds: float) -> None:
        """In pieces: a signal ends it."""
        until = self.run.monotonic() + seconds
        while self.signals.first is None and (left := until - self.run.monotonic()) > 0:
            self.run.sleep(min(left, 0.5))

    def _look(self) -> Log:
        """How far it is, and the log; an empty one, and as far as before, if it can't be read."""
        try:
            progress = self.run.work.look(self.run.storage)
        except (StorageUnavailable, AccessDenied, RefusedToGoOn):
            return Log()
        self._durable_step = progress.units
        return progress.log

    def _seen_before(self) -> list[Ending]:
        """What an earlier supervisor of this launch saw on this boot of the machine."""
        try:
            notes = read_notes(self.run.storage, "exit")
        except DbrError:
            return []
        return [
            Ending(code=code, durable_step=step)
            for note in notes
            if (note.values.get("launch"), note.values.get("boot_id")) == (self.run.launch_id, self.run.boot_id)
            and isinstance(code := note.values.get("code"), int)
            and isinstance(step := note.values.get("durable_step"), int)
        ]

    def _count(self) -> int:
        """How many starts in a row left the run where it is now; 0 if the home can't tell."""
        with contextlib.suppress(DbrError):
            return count_start(self.run.storage, self.run.launch_id, durable_step=self._durable_step)
        return 0

    def _note(self, ending: Ending) -> None:
        """A crash, for the history and for whoever supervises next."""
        if ending.is_crash:
            last = self.run.last_output()[:_ENDING_TAIL_CHARACTERS]
            told = f"{how_it_ended(ending.code)} after {self.run.work.unit} {ending.durable_step} was saved"
            self._post(f"{told}: {last}" if last else told, code=ending.code, durable_step=ending.durable_step)

    def _post(self, text: str, **values: int) -> None:
        # A note is for people: that it can't be written must not keep the training from being started again.
        with contextlib.suppress(DbrError):
            facts: dict[str, JsonValue] = {"launch": self.run.launch_id, "boot_id": self.run.boot_id, **values}
            post_note(self.run.storage, "exit", text, values=facts)


def launch_here(environment: Mapping[str, str]) -> str | None:
    """The number of the launch whose supervisor started this process; None where no launch has."""
    launch_id = environment.get(_LAUNCH_VARIABLE, "")
    return launch_id if _LAUNCH_ID.fullmatch(launch_id) else None


def _with_launch(environment: Mapping[str, str], launch_id: str) -> dict[str, str]:
    # Of a supervisor that was started by hand, be it within a launched job, too: the last one counts.
    return {**environment, _LAUNCH_VARIABLE: launch_id}


def _kept(going_back: tuple[str, ...], log: Log) -> tuple[str, ...]:
    """A wish to go back is repeated until the log has it; from then on it means `latest` anyway (rule 10)."""
    return () if not going_back or log.has_request(going_back[-1]) else going_back
