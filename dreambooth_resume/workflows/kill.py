"""Ending a run's processes on this machine at once, without a save: what was saved last is what stays.

The supervisor goes first, because it would start the training again. Nothing is written: the log, the heartbeat and the
process table tell everybody else that the attempt is gone, as after a power cut.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal

from pydantic import ValidationError

from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.entries import Process
from dreambooth_resume.runs.holder import is_known_gone, this_process
from dreambooth_resume.runs.summary import summarise
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.launched import live_jobs


def kill_run(storage: Storage) -> tuple[int, ...]:
    """SIGKILL to whatever trains the run on this machine; returns the pids, the supervisor's first.

    Raises BadInput where nothing of it lives here: a process of another machine can't be reached by a signal.
    """
    supervisors = [process for one in live_jobs(storage) if (process := _process(one.launch.job)) is not None]
    summary = summarise(storage)
    trainer = summary.process if summary is not None and summary.is_live else None
    here = [one for one in (*supervisors, *([trainer] if trainer else [])) if _lives_here(one)]
    if not here:
        home = storage.describe()
        where = f"on {trainer.host}" if trainer is not None else "nowhere, as far as is known"
        raise BadInput(
            f"it trains {where}, and not on this machine",
            where=home,
            fix=f"dbr stop {shlex.quote(home)} asks it to save and stop, wherever it is",
        )
    for process in here:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    return tuple(dict.fromkeys(process.pid for process in here))


def _process(job: object) -> Process | None:
    """The supervisor of a local job; None for a job of another platform."""
    values = getattr(job, "values", {})
    try:
        return Process.model_validate_json(values.get("process", ""))
    except ValidationError:
        return None


def _lives_here(process: Process) -> bool:
    here = this_process()
    seen = (process.boot_id, process.pid_namespace) == (here.boot_id, here.pid_namespace)
    return seen and process.pid != here.pid and not is_known_gone(process)
