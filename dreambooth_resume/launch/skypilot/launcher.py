"""Launches as managed jobs of SkyPilot, through its program `sky`.

Kill `start` while `sky` submits and the job may be in SkyPilot's queue under the launch's name, and `sky jobs cancel -n
NAME` ends it; a run that it trains meanwhile is held like any other. SkyPilot's own packages don't go together with
ours, so it lives in an environment of its own; where it can be imported all the same, it checks the YAML first.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.launch.base import Job, JobState, JobStatus, LaunchRequest, MachineEnd
from dreambooth_resume.launch.lists import listed
from dreambooth_resume.launch.programs import Refused, ask, find_program, lines_of, values_of
from dreambooth_resume.launch.skypilot.settings import SkyPilotSettings
from dreambooth_resume.launch.skypilot.task import launch_words, task_yaml
from dreambooth_resume.launch.state_folder import launch_folder, write_whole
from dreambooth_resume.runs.entries import Price

TASK = "task.yaml"
_INSTALL = "uv tool install 'skypilot[aws]' (an environment of its own), then: sky check"
_ASK_SECONDS = 120.0
_LAUNCH_SECONDS = 1800.0
"""The first launch of an account makes SkyPilot's controller, which takes minutes."""
_STATES: dict[str, JobState] = {
    "PENDING": "waiting",
    "SUBMITTED": "waiting",
    "STARTING": "waiting",
    "RECOVERING": "waiting",
    "RUNNING": "running",
    "WINDING_DOWN": "running",
    "CANCELLING": "running",
}
"""SkyPilot's words for what isn't over."""


class SkyPilotLauncher:
    """Managed jobs of SkyPilot: it looks for a machine in all regions and clouds, and for the next when one is lost."""

    shares_folders = False
    needs_package = True
    # SkyPilot gives a machine back by itself whenever its job is over.
    owns_machine = False
    evaluates = True

    def __init__(self, settings: SkyPilotSettings) -> None:
        self.settings = settings

    def check(self, request: LaunchRequest) -> None:
        self._program()
        values_of(listed(self.settings.secrets), where="--secrets")
        refuse_unknown_to_sky(task_yaml(request, self.settings))

    def plan(self, request: LaunchRequest) -> str:
        lines = [f"# sky jobs {shlex.join(launch_words(request.name, self.settings))} {TASK}"]
        if len(listed(self.settings.accelerators)) > 1:
            lines.append("# A resume on another kind of GPU is equivalent, not exact.")
        return "\n".join([*lines, task_yaml(request, self.settings).rstrip()])

    def price(self, request: LaunchRequest) -> Price | None:  # noqa: ARG002  SkyPilot chooses the machine later
        return None

    def start(self, request: LaunchRequest) -> Job:
        program = self._program()
        values_of(listed(self.settings.secrets), where="--secrets")
        file = launch_folder(request.launch_id) / TASK
        write_whole(file, task_yaml(request, self.settings).encode())
        words = [program, "jobs", *launch_words(request.name, self.settings), str(file)]
        try:
            ask(words, limit_seconds=_LAUNCH_SECONDS)
        except BaseException:
            # It may have been submitted before something went wrong.
            with contextlib.suppress(DbrError):
                self._cancel(request.name)
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                file.parent.rmdir()
            raise
        return _job(request.name)

    def find(self, launch_id: str, name: str) -> Job | None:  # noqa: ARG002  its name has the number
        return None if self._record(name) is None else _job(name)

    def look(self, job: Job) -> JobStatus:
        name = job.values.get("name", "")
        found = self._record(name) if name else None
        if found is None:
            return JobStatus(state="unknown", because=f"{job.name}: SkyPilot's queue has no such job")
        status = str(found.get("status"))
        told = f"{job.name}: {status}"
        place = str(found.get("infra") or found.get("region") or "")
        if place and place != "-":
            told += f", {place}"
        recoveries = found.get("recovery_count")
        if isinstance(recoveries, int) and recoveries > 0:
            told += f", recovered {recoveries} times"
        reason = found.get("failure_reason")
        if reason:
            told += f" ({' '.join(str(reason).split())[:200]})"
        return JobStatus(state=_STATES.get(status, "ended"), because=told)

    def interrupt(self, job: Job) -> bool:
        """No: SkyPilot doesn't say how long a cancelled job has to save, so the training is asked through the home."""
        return self.look(job).state == "ended"

    def release(self, job: Job) -> None:
        name = job.values.get("name", "")
        if name and self.look(job).state in ("waiting", "running"):
            self._cancel(name)

    def logs(self, job: Job, *, follow: bool) -> Iterator[str] | None:
        name = job.values.get("name", "")
        if not name or self._record(name) is None:
            return None
        how = ("--follow",) if follow else ("--no-follow", "--tail", "0")
        return lines_of([self._program(), "jobs", "logs", "-n", name, *how])

    def end_machine(self, launch_id: str, how: MachineEnd) -> None:  # noqa: ARG002  SkyPilot does so
        return

    def _program(self) -> str:
        return find_program("sky", fix=_INSTALL)

    def _cancel(self, name: str) -> None:
        ask([self._program(), "jobs", "cancel", "-y", "-n", name], limit_seconds=_ASK_SECONDS)

    def _record(self, name: str) -> dict[str, Any] | None:
        """SkyPilot's line on the job of that name, the newest; None if there is none."""
        printed = ask([self._program(), "jobs", "queue", "--all", "-o", "json"], limit_seconds=_ASK_SECONDS)
        # Hints on versions and the like may stand before it.
        _, bracket, rest = printed.partition("[")
        try:
            records = json.loads(bracket + rest) if bracket else []
        except ValueError:
            raise Refused(
                "prints no JSON for its queue; SkyPilot 0.14 does", program="sky jobs queue", code=0
            ) from None
        found = [one for one in records if isinstance(one, dict) and one.get("job_name") == name]
        return max(found, key=lambda one: int(one.get("job_id") or 0), default=None)


def _job(name: str) -> Job:
    return Job(name=f"managed job {name}", values={"name": name})


def refuse_unknown_to_sky(text: str) -> None:
    """Raises BadInput for a task that SkyPilot refuses to read, where it can be imported."""
    if find_spec("sky") is None:
        return
    import sky

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / TASK
        file.write_text(text, encoding="utf-8")
        try:
            sky.Task.from_yaml(str(file))
        except ValueError as error:
            raise BadInput(
                f"SkyPilot refuses the job: {' '.join(str(error).split())[:500]}",
                where="dbr launch skypilot",
                fix="mend the option that it names; --dry-run shows the whole job",
            ) from None
