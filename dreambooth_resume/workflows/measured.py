"""A step's real time on this machine, for an estimate."""

from __future__ import annotations

from dataclasses import replace

from dreambooth_resume.config.load import GivenOptions, resolve
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.workflows.estimate import Asked
from dreambooth_resume.workflows.first_start import decided
from dreambooth_resume.workflows.preflight import with_absolute_folders
from dreambooth_resume.workflows.scratch import scratch_folder
from dreambooth_resume.workflows.trial import try_out


def measured_here(given: GivenOptions, asked: Asked) -> Asked:
    """What was asked, with the time of a step that was trained a moment ago. Raises what `try_out` does."""
    options = decided(resolve(with_absolute_folders(given), recorded=None))
    with scratch_folder() as scratch:
        trial = try_out(options, scratch)
    if trial.step_seconds is None:
        raise RefusedToGoOn("The trial's steps have no times. Give one: --step-seconds SECONDS")
    return replace(asked, step_seconds=trial.step_seconds)
