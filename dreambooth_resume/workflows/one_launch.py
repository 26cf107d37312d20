"""One launch of a run at a time: what refuses a second, and what becomes of one whose start failed."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from datetime import UTC, datetime

from dreambooth_resume.errors import DbrError, HolderAlive, StoppedOnPurpose
from dreambooth_resume.launch.base import Job, Launcher, LaunchRequest, Purpose
from dreambooth_resume.launch.record import Launch, forget_launch, is_remembered, read_launches
from dreambooth_resume.runs.control import open_requests
from dreambooth_resume.runs.liveness import age_seconds
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.launched import live_jobs

STARTING_SECONDS = 45 * 60.0
"""How long a start may take: half an hour of SkyPilot's first one, and the ten minutes in which a home is asked to note
it. An older note without a job is that of somebody who died, and whose job nobody has seen to train since."""


def refuse_a_second(storage: Storage, *, besides: str | None = None, purpose: Purpose = "train") -> None:
    """Raises HolderAlive if the run is trained now, or a launch of it is made, waits or runs, as far as that is seen.

    The launch of the number `besides` is our own. Of evaluations, too, there is one at a time: two would make the same
    pictures. The training doesn't count then.
    """
    address = storage.describe()
    home = shlex.quote(address)
    watch, end, what = f"dbr status {home}", f"dbr stop {home}", address
    if purpose == "eval":
        watch, end, what = f"dbr logs {home} --eval -f", f"dbr stop {home} --eval", f"An evaluation of {address}"
    summary = summarise(storage) if purpose == "train" else None
    if summary is not None and summary.is_live:
        at = f"attempt {summary.attempt}" if summary.attempt else "a first start"
        raise HolderAlive(f"{at} trains the run in {address} already. Watch it: {watch}; end it: {end}")
    now = datetime.now(UTC)
    for launch in read_launches(storage, purpose):
        if launch.job is None and launch.id != besides and _is_young(launch, now=now):
            raise HolderAlive(
                f"{what} is being launched already ({launch.launcher}, by {launch.written_by} at "
                f"{launch.written_at}), or who launched it died on it. Wait for it: {watch}; end it and "
                f"give back what was made for it: {end}"
            )
    for one in live_jobs(storage, purpose):
        if one.launch.job is not None and one.status.state in ("waiting", "running"):
            raise HolderAlive(
                f"{what} was launched already ({one.launch.launcher}, {one.launch.job.name}): "
                f"{one.status.because}. Watch it: {watch}; end it: {end}"
            )


def refuse_if_stopped(storage: Storage, launch_id: str, *, purpose: Purpose = "train") -> None:
    """Raises StoppedOnPurpose if `dbr stop` took the note of our launch away while its job was started."""
    if not is_remembered(storage, launch_id, purpose=purpose):
        raise StoppedOnPurpose("dbr stop ended this launch while it was made. Begin anew: the same command.")


def forget_old_stops(storage: Storage) -> None:
    """Take away requests to stop that no attempt has read: whoever launches a run that nobody holds wants it to go on.

    Killed in between, the next launch does so again.
    """
    for key, request in open_requests(storage):
        if request.kind == "stop":
            storage.delete(key)


def take_back(
    storage: Storage, request: LaunchRequest, launcher: Launcher, job: Job | None, tell: Callable[[str], None]
) -> None:
    """After a start that failed: nothing is left of it, or it is said what is, and how to end that.

    The note stays where the job could not be given back: `dbr stop` finds it by the launch's number.
    """
    flag = " --eval" if request.purpose == "eval" else ""
    again = f"Once that is mended: dbr stop {shlex.quote(request.home)}{flag}"
    if job is not None:
        tell(f"{job.name} was started, and is given back, because the launch could not be finished.")
        try:
            # That it is given back is what counts, also where the look before it is refused.
            with contextlib.suppress(DbrError):
                launcher.interrupt(job)
            launcher.release(job)
        except DbrError as error:
            tell(f"{job.name} could not be given back, and may cost money: {error} {again}")
            return
    try:
        # A note of what was never started would be looked for by every later command.
        forget_launch(storage, request.launch_id, purpose=request.purpose)
    except DbrError as error:
        tell(f"The note of this launch stays in the home, though nothing runs: {error} {again}")


def _is_young(launch: Launch, *, now: datetime) -> bool:
    age = age_seconds(launch.written_at, now=now)
    return age is not None and age < STARTING_SECONDS
