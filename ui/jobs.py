"""What the page asks a run's launcher: how the newest job stands, and what it printed last."""

from __future__ import annotations

from collections import deque
from itertools import islice

from dreambooth_resume.errors import DbrError
from dreambooth_resume.launch.output import last_copied_lines
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.ui.view import JobView
from dreambooth_resume.workflows.launched import newest_job

LINES_SHOWN = 400
_LINES_LOOKED_AT = 1_000_000
_LINES_OF_A_FAILURE = 20


def read_job(storage: Storage, *, has_begun: bool) -> JobView | None:
    """How the newest launch stands, by its platform; None if it was never launched.

    Of a run that has not begun the log knows nothing, so what a job that ended printed last comes with it.
    """
    found = newest_job(storage)
    if found is None or found.launch.job is None:
        return None
    is_over = found.status.state == "ended" or found.exit_code is not None
    lines = (last_lines(storage) or ()) if is_over and not has_begun else ()
    return JobView(
        launcher=found.launch.launcher,
        name=found.launch.job.name,
        state=found.status.state,
        because=found.status.because,
        last_exit=found.last_exit,
        exit_code=found.exit_code,
        last_lines=lines[-_LINES_OF_A_FAILURE:],
    )


def last_lines(storage: Storage) -> tuple[str, ...] | None:
    """The end of what the newest launch printed, as its launcher has it or as the home has a copy; None without one."""
    try:
        found = newest_job(storage)
        if found is None or found.launch.job is None:
            return None
        lines = found.launcher.logs(found.launch.job, follow=False)
        if lines is not None:
            return tuple(deque(islice(lines, _LINES_LOOKED_AT), maxlen=LINES_SHOWN))
        copied = last_copied_lines(storage)
        return None if copied is None else tuple(copied[-LINES_SHOWN:])
    except DbrError as error:
        return (f"The output can't be read: {error}",)
