"""What is sent to Hugging Face Jobs for a launch, from values alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dreambooth_resume.config.options.preemption import duration_seconds
from dreambooth_resume.launch.base import LaunchRequest
from dreambooth_resume.launch.hf_jobs.settings import HfJobsSettings, deadline_after
from dreambooth_resume.launch.lists import listed
from dreambooth_resume.launch.machine_settings import infra_file, machine_settings, service_settings
from dreambooth_resume.launch.package import make_constraints

SCRIPT = "hf_job.py"
LABEL = "dbr-launch"
# The same Python as here: the versions of the packages are those that were tested with it.
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Of `run_uv_job`: all but the secrets' values. `script` is the text of the file that it names."""

    script: str
    environment: Mapping[str, str]
    secrets: tuple[str, ...]
    flavor: str
    timeout_seconds: int
    attempts: int
    name: str
    launch_id: str
    namespace: str | None


def sent(request: LaunchRequest, settings: HfJobsSettings) -> Sent:
    """The job of this launch."""
    timeout_seconds = int(duration_seconds(settings.timeout))
    deadline_seconds = int(deadline_after(timeout_seconds))
    own = request.options.preemption.deadline_seconds
    if own is not None:
        deadline_seconds = min(deadline_seconds, int(own))
    # The last of two wins, so this one holds over what the home's note of the launch has.
    told = replace(request, command=(*request.command, "--deadline", f"{deadline_seconds}s"))
    environment = {
        **machine_settings(told),
        **service_settings(request),
        "DBR_TELL": (
            f"the Hub ends this attempt {_minutes(timeout_seconds)} after its start, without a notice; the training "
            f"leaves by itself {_minutes(deadline_seconds)} after it began, with everything saved."
        ),
    }
    extras = request.package.extras if request.package is not None else ()
    return Sent(
        script=script(extras),
        environment={name: value for name, value in environment.items() if value},
        secrets=listed(settings.secrets),
        flavor=settings.flavor,
        timeout_seconds=timeout_seconds,
        attempts=settings.attempts,
        name=request.name,
        launch_id=request.launch_id,
        namespace=settings.namespace,
    )


def script(extras: tuple[str, ...]) -> str:
    """infra/hf_job.py below a PEP 723 header with everything that dbr runs with here, at these very versions."""
    wanted = "".join(f'#   "{line}",\n' for line in make_constraints(extras=extras).splitlines())
    header = f'# /// script\n# requires-python = "=={PYTHON}.*"\n# dependencies = [\n{wanted}# ]\n# ///\n'
    return header + infra_file(SCRIPT)


def plan_text(job: Sent) -> str:
    """The request as it would be sent, and the script."""
    shown = {
        "script": SCRIPT,
        "python": PYTHON,
        "flavor": job.flavor,
        "timeout": job.timeout_seconds,
        "attempts": job.attempts,
        "name": job.name,
        "labels": {LABEL: job.launch_id},
        "namespace": job.namespace,
        "env": dict(job.environment),
        "secrets": dict.fromkeys(job.secrets, "the value of this shell's variable"),
    }
    return f"# huggingface_hub.run_uv_job\n{json.dumps(shown, indent=2)}\n# {SCRIPT}\n{job.script}"


def _minutes(seconds: int) -> str:
    return f"{seconds / 60:g} min"
