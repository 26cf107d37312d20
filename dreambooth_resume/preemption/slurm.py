"""Slurm: the job, its restarts and its time limit. Its signals (USR1, or TERM at a preemption) come as any other's do.

A job file may forget `--signal`, and a trainer that `srun` did not start is told nothing: then only the limit is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from dreambooth_resume.runs.entries import PlatformJob

_END = "SLURM_JOB_END_TIME"
"""Seconds since 1970, by the clock of the cluster. Source: sbatch(1), "OUTPUT ENVIRONMENT VARIABLES"."""
_JOB, _RESTARTS = "SLURM_JOB_ID", "SLURM_RESTART_COUNT"
NAME = "Slurm's time limit"


def seconds_to_the_limit(environment: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """How long this job may still run; None outside of Slurm, where it has no limit, or where that isn't said.

    Of a limit that was shortened or prolonged since, a running job hears nothing.
    """
    told = environment.get(_END, "")
    left_seconds = float(told) - now() if told.isdecimal() else 0.0
    return left_seconds if 0.0 < left_seconds < 366 * 86_400 else None


def job_here(environment: Mapping[str, str]) -> PlatformJob | None:
    """The job that this process runs in; None outside of Slurm. Its restarts are 0 where Slurm doesn't count them."""
    number, restarts = environment.get(_JOB, ""), environment.get(_RESTARTS, "")
    if not number.isdecimal():
        return None
    return PlatformJob(name=f"Slurm job {number}", restarts=int(restarts) if restarts.isdecimal() else 0)
