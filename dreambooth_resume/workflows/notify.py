"""`--notify`: what a web hook is told of a training, from its first step to its end.

The training knows nothing of it. What it reports to whoever watches is listened to on the way, so nothing here can
hold it up: a message is put into a queue, and a thread of its own sends it.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dreambooth_resume.config.load import GivenOptions
from dreambooth_resume.config.options.reporting import a_web_hook
from dreambooth_resume.errors import (
    BadInput,
    BudgetSpent,
    ComeBack,
    DbrError,
    Fenced,
    HolderAlive,
    Interrupted,
    StoppedOnPurpose,
)
from dreambooth_resume.insight.notifier import Notifier
from dreambooth_resume.insight.stall import StallWatch
from dreambooth_resume.insight.webhook import Address, Event, Kind, address_of
from dreambooth_resume.runs.history import Attempt, read_history
from dreambooth_resume.training.progress import Reporter, StepUpdate
from dreambooth_resume.workflows.home import find_place

VARIABLE = "DBR_NOTIFY"
CLOSE_SECONDS, HURRIED_CLOSE_SECONDS = 10.0, 4.0
"""How long the end of a process waits for its last message; hurried: somebody asks for the machine."""
_LOOK_SECONDS = 5.0


def notify_address(given: GivenOptions) -> Address | None:
    """Where to: --notify, else the variable, else the file. Raises BadInput, without the value, for no address.

    `--notify none` tells nobody, whatever the others say.
    """
    if "notify" in given.values and given.values["notify"] is None:
        return None
    if (typed := cast("str | None", given.value("notify"))) is not None:
        return address_of(typed)
    where, found = VARIABLE, os.environ.get(VARIABLE, "").strip()
    if not found:
        file = address_file()
        try:
            where, found = str(file), file.read_text(errors="replace").strip()
        except OSError:  # as a rule there is none
            return None
    if not found:
        return None
    try:
        return address_of(cast(str, a_web_hook(found)))
    except ValueError as error:
        raise BadInput(f"the value {error}", where=where, fix="take it away, or correct it") from None


def address_file() -> Path:
    """Where an address lies for every run of this user, also on machines that share the user's home folder."""
    folder = os.environ.get("XDG_CONFIG_HOME", "").strip()
    return (Path(folder) if folder else Path.home() / ".config") / "dbr" / "notify"


def kind_of(error: BaseException) -> Kind | None:
    """What the end of a training is called; None for one that nobody has to be told of.

    Not told: a stop by the user's own hand, and a process that found another one in its place.
    """
    if isinstance(error, HolderAlive | Fenced):
        return None
    if isinstance(error, BudgetSpent):
        return "budget"
    if isinstance(error, StoppedOnPurpose) or not isinstance(error, Exception):
        return None
    return "interrupted" if isinstance(error, ComeBack) else "failed"


@dataclass(slots=True, kw_only=True)
class Told:
    """The way to the web hook, and what the training has shown so far."""

    reporter: Reporter
    """Hand this to the training in place of its own."""
    trains: bool = False
    """Set once the run isn't found to be finished already: only then is its end news."""


@contextmanager
def notifying(given: GivenOptions, reporter: Reporter) -> Iterator[Told]:
    """Tell the web hook, if there is one, how what happens in this block goes on and ends. Changes no error."""
    address = notify_address(given)
    if address is None:
        yield Told(reporter=reporter)
        return
    notifier = Notifier(address, tell=reporter.message)
    notifier.start()
    listening = _Listening(reporter, notifier, given)
    listening.start()
    told = Told(reporter=listening)
    try:
        yield told
    finally:
        listening.stop()
        error = sys.exception()
        if error is not None and (kind := kind_of(error)) is not None:
            listening.tell(kind, _words_of(error), exit_code=_code_of(error))
        elif error is None and told.trains:
            listening.tell("finished", "All steps are trained.", exit_code=0)
        notifier.close(timeout_seconds=HURRIED_CLOSE_SECONDS if isinstance(error, Interrupted) else CLOSE_SECONDS)


@contextmanager
def announcing(given: GivenOptions, tell: Callable[[str], None]) -> Iterator[Callable[[Kind, str, int], None]]:
    """For a supervisor: tell the web hook, if there is one, what a training that was killed can't say itself."""
    address = notify_address(given)
    if address is None:
        yield lambda _kind, _words, _code: None
        return
    notifier = Notifier(address, tell=tell)
    notifier.start()
    try:
        yield lambda kind, words, code: notifier.put(lambda: event_of(given, kind, words, last=None, exit_code=code))
    finally:
        notifier.close(timeout_seconds=CLOSE_SECONDS)


class _Listening:
    """A reporter that hands everything on, and listens. Called on the training thread: it only sets values."""

    def __init__(
        self,
        reporter: Reporter,
        notifier: Notifier,
        given: GivenOptions,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reporter = reporter
        self._notifier = notifier
        self._given = given
        self._monotonic = monotonic
        self._last: StepUpdate | None = None
        self._watch = StallWatch(monotonic())
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look_again_and_again, name="dbr-stall-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._closing.set()

    def message(self, text: str) -> None:
        self._reporter.message(text)

    def phase(self, name: str, done: int, total: int) -> None:
        with self._lock:
            self._watch.sign(self._monotonic())
        self._reporter.phase(name, done, total)

    def step(self, update: StepUpdate) -> None:
        if self._last is None and update.step > 1:
            self.tell("resumed", f"It goes on from step {update.step - 1}.", with_the_attempt_before=True)
        self._last = update
        with self._lock:
            self._watch.step(self._monotonic(), update.step, alarm=update.alarm)
        self._reporter.step(update)

    def close(self) -> None:
        self._reporter.close()

    def tell(
        self, kind: Kind, words: str, *, exit_code: int | None = None, with_the_attempt_before: bool = False
    ) -> None:
        last = self._last

        def compose() -> Event:
            before = _attempt_before(self._given) if with_the_attempt_before else ""
            return event_of(self._given, kind, f"{words}{before}", last=last, exit_code=exit_code)

        self._notifier.put(compose)

    def _look_again_and_again(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            with self._lock:
                found = self._watch.look(self._monotonic())
            if found is not None:
                self.tell("stalled", f"{found[0].upper()}{found[1:]}.")


def event_of(
    given: GivenOptions, kind: Kind, words: str, *, last: StepUpdate | None, exit_code: int | None = None
) -> Event:
    """The message: which run, how far it is, what happened, and where to look."""
    home = str(given.value("storage_uri") or given.value("output_dir"))
    run = home.rstrip("/").rpartition("/")[2] or home
    how_far = f", step {last.step} of {last.max_train_steps}" if last is not None else ""
    saved = f", {_durable(last)} saved" if last is not None and kind != "finished" else ""
    lines = [f"dbr: {run} {_VERBS[kind]}{how_far}{saved}", words]
    if exit_code:
        lines[-1] += f" (exit code {exit_code})"
    lines.append(f"{home} on {socket.gethostname()}")
    return Event(
        kind=kind,
        run=run,
        home=home,
        text="\n".join(lines),
        host=socket.gethostname(),
        step=last.step if last else None,
        max_train_steps=last.max_train_steps if last else None,
        durable_step=last.durable_step if last else None,
        exit_code=exit_code,
    )


_VERBS: dict[Kind, str] = {
    "interrupted": "was interrupted",
    "resumed": "goes on",
    "stalled": "stalls",
    "failed": "failed",
    "finished": "is finished",
    "budget": "has spent its budget",
}


def _durable(last: StepUpdate) -> str:
    return "nothing" if last.durable_step is None else f"step {last.durable_step}"


def _attempt_before(given: GivenOptions) -> str:
    """How the attempt before this one ended: one whose machine was lost could not say so itself."""
    try:
        attempts = [one for one in read_history(find_place(given).storage) if one.ending not in ("command", "retried")]
    except DbrError:
        return ""
    return f" {_how_it_ended(attempts[-2])}" if len(attempts) > 1 else ""


def _how_it_ended(attempt: Attempt) -> str:
    lost = f"; {attempt.redone_steps} steps are trained again" if attempt.redone_steps else ""
    if attempt.ending == "lost":
        return f"Attempt {attempt.number} was lost without a word, after step {attempt.reached_step}{lost}."
    return f"Attempt {attempt.number} had ended: {attempt.reason}{lost}."


def _words_of(error: BaseException) -> str:
    if isinstance(error, BadInput):
        return f"{error.where}: {error.what}" if error.where else error.what
    return str(error) if isinstance(error, DbrError) else f"A bug: {type(error).__name__}"


def _code_of(error: BaseException) -> int:
    return error.exit_code if isinstance(error, DbrError) else DbrError.exit_code
