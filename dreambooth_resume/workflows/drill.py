"""A rehearsal: what the platform does at any time is done on purpose, and the run is watched until it trains again."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.base import Job, Rehearsal, Rehearses
from dreambooth_resume.runs.entries import Adopt, Commit, Entry, Finished, Process, Stopped
from dreambooth_resume.runs.holder import is_known_gone
from dreambooth_resume.runs.log import Log, read_log
from dreambooth_resume.runs.status import Status, read_status
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.launched import newest_job

WAIT_SECONDS = 900.0
"""How long a run is given to train again: a queue, or a machine that boots, takes minutes."""
_LOOK_SECONDS = 0.1
_ON_ITS_OWN_ACCORD = ("interval", "asked for")
"""Reasons of saves that no notice asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A run that trains now, by a launcher that can rehearse."""

    launcher: str
    job: Job
    rehearses: Rehearses
    attempt: int
    process: Process
    step: int


@dataclass(slots=True, kw_only=True)
class Drilled:
    """What was seen, in seconds since it was sent; None: not seen. Steps are optimizer updates."""

    home: str
    launcher: str
    how: Rehearsal
    sent: str = ""
    """What was done."""
    attempt: int
    noticed_seconds: float | None = None
    """The training began to save for it."""
    saved_seconds: float | None = None
    """That save was committed."""
    saved_step: int | None = None
    gone_seconds: float | None = None
    back_attempt: int | None = None
    back_seconds: float | None = None
    """The next attempt has adopted the run."""
    resumed_step: int | None = None
    first_step_seconds: float | None = None
    """It has made a step."""
    reached_step: int
    """As far as the attempt before is known to have come."""
    steps_lost: int | None = None
    finished: bool = False
    """The run was done before it could be interrupted, or right afterwards."""

    @property
    def is_back(self) -> bool:
        return self.first_step_seconds is not None or self.finished


def find_target(storage: Storage) -> Target:
    """The run's holder and its launcher. Raises BadInput where nothing trains, or nobody would start it again."""
    home = shlex.quote(storage.describe())
    summary = summarise(storage)
    alive = summary is not None and summary.state == "running" and summary.process is not None
    if summary is None or not alive or summary.attempt is None or summary.process is None:
        told = "there is no run" if summary is None else f"nothing trains there: {summary.state}, {summary.because}"
        raise BadInput(told, where=storage.describe(), fix=f"dbr resume {home}, and wait until dbr status shows steps")
    found = newest_job(storage)
    if found is None or found.launch.job is None:
        raise BadInput(
            "was not launched, so nobody would start it again", where=storage.describe(),
            fix="stop it and go on with it by: dbr launch local --config run.yaml",
        )  # fmt: skip
    if not isinstance(found.launcher, Rehearses):
        raise BadInput(
            f"dbr has no rehearsal on {found.launch.launcher}", where=found.launch.job.name,
            fix="interrupt it by the platform's own means, and look at it with: dbr history " + home,
        )  # fmt: skip
    if _launch_of(storage, summary.attempt) != found.launch.id:
        # Interrupted, a training that was started by hand beside an old launch would be gone for good.
        raise BadInput(
            f"attempt {summary.attempt} was not started by the newest launch, so nobody may start it again",
            where=found.launch.job.name,
            fix=f"dbr stop {home}, then dbr resume {home}: what it launches can be rehearsed with",
        )
    return Target(
        launcher=found.launch.launcher,
        job=found.launch.job,
        rehearses=found.launcher,
        attempt=summary.attempt,
        process=summary.process,
        step=summary.step,
    )


def _launch_of(storage: Storage, attempt: int) -> str | None:
    """The number of the launch that started this attempt, as its adopt says."""
    adopts = [entry.body for entry in read_log(storage).entries if entry.attempt == attempt]
    return next((one.launch for one in adopts if isinstance(one, Adopt)), None)


@dataclass(kw_only=True)
class Drill:
    """Sends it and watches."""

    storage: Storage
    target: Target
    how: Rehearsal
    tell: Callable[[str], None]
    wait_seconds: float = WAIT_SECONDS
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _log: Log = field(init=False)
    _began: float = field(init=False)

    def run(self) -> Drilled:
        """What was seen until the run trained again, or the patience was spent. Raises what the launcher refuses."""
        target = self.target
        self._log = read_log(self.storage)
        seen = Drilled(
            home=self.storage.describe(), launcher=target.launcher, how=self.how, attempt=target.attempt,
            reached_step=target.step,
        )  # fmt: skip
        before = self._log.next_number
        self._began = self.monotonic()
        seen.sent = target.rehearses.rehearse(target.job, self.how, holder=target.process)
        self.tell(f"Sent: {seen.sent}.")
        while self.monotonic() - self._began < self.wait_seconds:
            self._look(seen, before)
            if seen.is_back:
                break
            self.sleep(max(_LOOK_SECONDS, self.storage.hint_interval_seconds / 10))
        return seen

    def _look(self, seen: Drilled, before: int) -> None:
        self._log = read_log(self.storage, self._log)
        old = read_status(self.storage, seen.attempt)
        entries = self._log.entries[before - 1 :]
        if old is not None:
            seen.reached_step = max(seen.reached_step, old.step)
        self._look_at_the_old(seen, old, entries)
        adopts = [entry for entry in entries if isinstance(entry.body, Adopt) and entry.attempt > seen.attempt]
        if adopts:
            self._look_at_the_new(seen, adopts[-1])
        seen.finished = seen.finished or (self._log.finished is not None and not adopts)

    def _look_at_the_old(self, seen: Drilled, old: Status | None, entries: tuple[Entry, ...]) -> None:
        own = [entry.body for entry in entries if entry.attempt == seen.attempt]
        saves = [one for one in own if isinstance(one, Commit) and one.reason not in _ON_ITS_OWN_ACCORD]
        is_leaving = old is not None and old.phase in ("saving", "ended")
        if self.how == "notice" and seen.noticed_seconds is None and (is_leaving or saves):
            seen.noticed_seconds = self._passed("The training has noticed")
        if self.how == "notice" and seen.saved_seconds is None and saves:
            seen.saved_step = saves[-1].step
            seen.saved_seconds = self._passed(f"Step {seen.saved_step} is saved")
        ended = any(isinstance(one, Stopped | Finished) for one in own) or (old is not None and old.phase == "ended")
        if seen.gone_seconds is None and (ended or is_known_gone(self.target.process)):
            seen.gone_seconds = self._passed(f"Attempt {seen.attempt} is gone")

    def _look_at_the_new(self, seen: Drilled, adopt: Entry) -> None:
        if seen.back_attempt != adopt.attempt:
            seen.back_attempt, seen.resumed_step = adopt.attempt, adopt.state.step
            seen.back_seconds = self._passed(f"Attempt {adopt.attempt} goes on from step {adopt.state.step}")
            seen.gone_seconds = seen.back_seconds if seen.gone_seconds is None else seen.gone_seconds
            # A save can be known of where no later word was: its step was reached.
            seen.reached_step = max(seen.reached_step, adopt.state.step)
            seen.steps_lost = seen.reached_step - adopt.state.step
        new = read_status(self.storage, adopt.attempt)
        if seen.first_step_seconds is None and new is not None and new.step > adopt.state.step:
            seen.first_step_seconds = self._passed("It trains again")

    def _passed(self, what: str) -> float:
        seconds = round(self.monotonic() - self._began, 1)
        self.tell(f"{seconds:6.1f} s  {what}.")
        return seconds
