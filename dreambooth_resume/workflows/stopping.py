"""`dbr stop`: whoever trains a run saves and ends, wherever that is, and what was made for it is given back.

Kill anywhere and type it again: each step looks at what is there. A request that is left in the home stops whoever
reads it; the next launch takes it away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dreambooth_resume.errors import DbrError
from dreambooth_resume.launch.base import Purpose, launch_name
from dreambooth_resume.launch.launchers import launcher_named
from dreambooth_resume.launch.record import Launch, forget_launch, read_launches, write_started
from dreambooth_resume.runs.control import Request, post_request, withdraw_request
from dreambooth_resume.runs.summary import RunSummary, summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.holders import ANSWER_SECONDS, Waiting, holder_of
from dreambooth_resume.workflows.launched import LaunchedJob, live_jobs, looked_at, started_jobs

_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """What `stop_run` did: `interrupted` jobs by their platform, or a `request` through the home."""

    interrupted: tuple[str, ...]
    request: Request | None
    not_given_back: tuple[str, ...]
    """Each with why: it may run on, and cost money."""
    not_withdrawn: DbrError | None = None
    """What kept `request` from being taken back, though nobody waits for its answer any more."""


def stop_run(storage: Storage, summary: RunSummary | None, waiting: Waiting) -> Stop:
    """Have the run save and stop, wherever it is, and give back what was made for it.

    A platform that can't tell its job to end is asked through the home. Machines are given back once nothing trains,
    which is waited for. What a platform refuses, or doesn't answer, keeps nothing else from being done.
    """
    # First of all: whatever the platforms say, who trains hears of it. A request that nobody reads would stop the next
    # attempt, so it is left only where somebody holds the run.
    is_held = summary is not None and summary.is_live and summary.attempt is not None
    request = post_request(storage, "stop") if is_held else None
    trouble: dict[str, str] = {}
    started = [*started_jobs(storage), *_jobs_without_a_note(storage, trouble)]
    jobs = [one for one in started if one.status.state != "ended"]
    interrupted = [one for one in jobs if _interrupted(one, trouble)]
    has_machines = any(one.launcher.owns_machine or one not in interrupted for one in jobs)
    silent = None
    if request is None and not interrupted and summary is not None:
        try:
            if holder_of(storage, summary, waiting) is not None:
                request = post_request(storage, "stop")
            else:
                silent = summary.attempt
        except DbrError:
            if not has_machines:
                raise
    not_withdrawn: DbrError | None = None
    if has_machines:
        try:
            _wait_until_free(storage, waiting, silent=silent)
        finally:
            not_withdrawn = _withdrawn(storage, request)
    # What ended by itself has left things on a platform too: an empty group, a launch template.
    for one in started:
        if one.launcher.owns_machine or (one in jobs and one not in interrupted):
            _release(one, trouble)
    names = tuple(one.launch.job.name for one in interrupted if one.launch.job)
    not_given_back = tuple(trouble.values())
    return Stop(interrupted=names, request=request, not_given_back=not_given_back, not_withdrawn=not_withdrawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationStop:
    """Names of the jobs that were told to end; and of those that could not be told from here, each with why."""

    told: tuple[str, ...]
    not_given_back: tuple[str, ...]


def stop_evaluations(storage: Storage) -> EvaluationStop:
    """End what was launched to evaluate the run, and may still do so. The training is left alone.

    There is nothing to wait for: every score is in the home, and the picture at hand is made again by the next.
    """
    trouble: dict[str, str] = {}
    told: list[str] = []
    for one in [*live_jobs(storage, "eval"), *_jobs_without_a_note(storage, trouble, "eval")]:
        assert one.launch.job is not None
        if not _interrupted(one, trouble):
            # The platform has no word for it, and nobody there looks for one in the home.
            _release(one, trouble)
            if one.status.state == "unknown" and one.launch.id not in trouble:
                trouble[one.launch.id] = one.status.because
        if one.launch.id not in trouble:
            told.append(one.launch.job.name)
    return EvaluationStop(told=tuple(told), not_given_back=tuple(trouble.values()))


def _jobs_without_a_note(storage: Storage, trouble: dict[str, str], purpose: Purpose = "train") -> list[LaunchedJob]:
    """What runs of launches whose start nobody saw the end of. Those of which nothing is there are forgotten."""
    found: list[LaunchedJob] = []
    for launch in read_launches(storage, purpose):
        if launch.job is not None:
            continue
        try:
            found += _job_of(storage, launch)
        except DbrError as error:
            trouble[launch.id] = f"whatever was launched on {launch.launcher} at {launch.written_at}: {error}"
    return found


def _job_of(storage: Storage, launch: Launch) -> list[LaunchedJob]:
    name = launch_name(storage.describe(), launch.id, purpose=launch.purpose)
    job = launcher_named(launch.launcher, launch.settings).find(launch.id, name)
    if job is None:
        # Whoever is starting it just now finds its note gone, and takes it back.
        forget_launch(storage, launch.id, purpose=launch.purpose)
        return []
    write_started(storage, launch.id, launcher=launch.launcher, job=job)
    return [looked_at(replace(launch, job=job))]


def _withdrawn(storage: Storage, request: Request | None) -> DbrError | None:
    """What keeps a request from being taken back: told once everything is given back, which matters more."""
    try:
        if request is not None:
            withdraw_request(storage, request)
    except DbrError as error:
        return error
    return None


def _interrupted(one: LaunchedJob, trouble: dict[str, str]) -> bool:
    assert one.launch.job is not None
    try:
        return one.launcher.interrupt(one.launch.job)
    except DbrError as error:
        trouble[one.launch.id] = f"{one.launch.job.name} ({one.launch.launcher}): {error}"
        return False


def _release(one: LaunchedJob, trouble: dict[str, str]) -> None:
    assert one.launch.job is not None
    try:
        one.launcher.release(one.launch.job)
    except DbrError as error:
        trouble[one.launch.id] = f"{one.launch.job.name} ({one.launch.launcher}): {error}"
    else:
        trouble.pop(one.launch.id, None)


def _wait_until_free(storage: Storage, waiting: Waiting, *, silent: int | None) -> None:
    """Until nobody trains, or for as long as a training is given to answer: its last save is what counts then.

    `silent` is an attempt that was listened for just now, in vain. A home that doesn't answer says nothing of either.
    """
    deadline = waiting.monotonic() + ANSWER_SECONDS
    is_told, is_silence_told = False, False
    while waiting.monotonic() < deadline:
        try:
            if _is_free(storage, waiting, silent=silent):
                return
        except DbrError as error:
            if not is_silence_told:
                waiting.tell(f"{error} Waiting for {ANSWER_SECONDS:.0f} s at most, then giving the machine back.")
                is_silence_told = True
        if not is_told:
            waiting.tell("Waiting until the last step is saved, then giving the machine back.")
            is_told = True
        waiting.sleep(max(_LOOK_SECONDS, storage.hint_interval_seconds / 5))


def _is_free(storage: Storage, waiting: Waiting, *, silent: int | None) -> bool:
    summary = summarise(storage)
    if summary is None or (not summary.is_live and summary.attempt == silent):
        return True
    # By its heartbeat where only its age tells: the clock of the machine that goes may differ from ours.
    return not summary.is_live and holder_of(storage, summary, waiting) is None
