"""This machine: a supervisor in the background that outlives the shell, with its output in a file."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import BaseModel, ValidationError

from dreambooth_resume.config.options.declaration import free
from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.base import SETTINGS_CONFIG, Job, JobStatus, LaunchRequest, MachineEnd, Rehearsal
from dreambooth_resume.launch.growing_file import growing_lines
from dreambooth_resume.launch.state_folder import launch_folder, output_file, write_whole
from dreambooth_resume.runs.entries import Price, Process
from dreambooth_resume.runs.holder import is_known_gone, process_with, this_process

STATE = "state.json"
_STARTS_WITHIN_SECONDS = 30.0
_LOOK_SECONDS = 0.1
_RESUME = "dbr resume HOME launches it again"
_KILLED_WITH_SESSION = re.compile(r"^\s*KillUserProcesses\s*=\s*(?:yes|true|1|on)\s*$", re.M | re.I)


class LocalSettings(BaseModel):
    """This machine."""

    model_config = SETTINGS_CONFIG

    queue: Annotated[bool, free()] = True
    """Wait until no other queued run trains: one at a time for each GPU, or for the machine where it has none."""


class LocalLauncher:
    """Starts the supervisor in a session of its own, with nothing to read and its output in a file."""

    shares_folders = True
    needs_package = False
    owns_machine = False
    evaluates = True

    def __init__(self, settings: LocalSettings) -> None:
        self.settings = settings

    def check(self, request: LaunchRequest) -> None:
        """Only that a file can be written where the output goes: the rest is this machine, which was looked at."""
        existing = next(one for one in launch_folder(request.launch_id).parents if one.exists())
        if not os.access(existing, os.W_OK | os.X_OK):
            raise BadInput(
                "can't be written, and the output of the run goes there",
                where=str(existing),
                fix="set XDG_STATE_HOME to a folder that you can write to",
            )

    def plan(self, request: LaunchRequest) -> str:
        lines = [
            shlex.join(["setsid", "dbr", *self._words(request)]),
            f"  < /dev/null > {output_file(request.launch_id)} 2>&1",
        ]
        return "\n".join([*lines, *(f"# {warning}" for warning in session_warnings())])

    def price(self, request: LaunchRequest) -> Price | None:  # noqa: ARG002  your own machine has none that we know
        return None

    def start(self, request: LaunchRequest) -> Job:
        output = output_file(request.launch_id)
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            with output.open("ab") as log:
                supervisor = subprocess.Popen(
                    [sys.executable, "-m", "dreambooth_resume", *self._words(request)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            process = process_with(supervisor.pid)
        except (OSError, psutil.NoSuchProcess):
            shutil.rmtree(output.parent, ignore_errors=True)
            raise
        return _job(request.launch_id, process)

    def find(self, launch_id: str, name: str) -> Job | None:  # noqa: ARG002  a process has no name
        """By the words of its supervisor, if that lives on this machine."""
        for one in psutil.process_iter(["cmdline"]):
            words = one.info["cmdline"] or []
            if ("--launch", launch_id) in itertools.pairwise(words):
                with contextlib.suppress(psutil.NoSuchProcess):
                    return _job(launch_id, process_with(one.pid))
        return None

    def look(self, job: Job) -> JobStatus:
        process = _process(job)
        here = this_process()
        if process is None or process.host != here.host:
            return JobStatus(state="unknown", because=f"{job.name}: only that machine can tell")
        said = _said(job.values.get("launch", ""))
        if said is not None and said.state == "ended":
            return said
        if process.boot_id != here.boot_id:
            return JobStatus(state="ended", because=f"{job.name}: the machine was started anew since")
        if process.pid_namespace != here.pid_namespace:
            return JobStatus(state="unknown", because=f"{job.name}: lives in another container")
        if is_known_gone(process):
            return JobStatus(state="ended", because=f"{job.name}: its supervisor is no more, and said no goodbye")
        return said or JobStatus(state="running", because=f"{job.name}: its supervisor lives")

    def interrupt(self, job: Job) -> bool:
        process = _process(job)
        if process is None or self.look(job).state not in ("waiting", "running"):
            return self.look(job).state == "ended"
        _wait_until_it_hears(process.pid, signal.SIGINT)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
        return True

    def rehearse(self, job: Job, how: Rehearsal, *, holder: Process) -> str:
        """To the training alone: its supervisor starts it again, as after a crash or a notice."""
        here = this_process()
        if (holder.boot_id, holder.pid_namespace) != (here.boot_id, here.pid_namespace):
            raise BadInput(
                f"trains on {holder.host}, and signals don't reach there", where=job.name, fix="type the same there"
            )
        if self.look(job).state != "running":
            raise BadInput("its supervisor is gone, so nobody would start it again", where=job.name, fix=_RESUME)
        if is_known_gone(holder):
            raise BadInput("ended just now", where=f"pid {holder.pid}", fix=_RESUME)
        number = signal.SIGTERM if how == "notice" else signal.SIGKILL
        os.kill(holder.pid, number)
        return f"{number.name} to pid {holder.pid} on {holder.host}"

    def release(self, job: Job) -> None:  # noqa: ARG002  nothing was made but a log, which is kept for `dbr logs`
        return

    def logs(self, job: Job, *, follow: bool) -> Iterator[str] | None:
        output = output_file(job.values.get("launch", ""))
        if not output.is_file():
            return None
        return growing_lines(output, is_over=lambda: not follow or self.look(job).state == "ended")

    def end_machine(self, launch_id: str, how: MachineEnd) -> None:  # noqa: ARG002  the machine is the user's
        return

    def _words(self, request: LaunchRequest) -> list[str]:
        return [*request.command, *(["--queue"] if self.settings.queue else [])]


def _wait_until_it_hears(pid: int, number: signal.Signals) -> None:
    """A shell starts what it puts in the background with Ctrl-C ignored, and so do its children until they say else.

    The supervisor does as soon as it has imported itself; a signal before that would be lost.
    """
    until = time.monotonic() + _STARTS_WITHIN_SECONDS
    while time.monotonic() < until:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        ignored = re.search(r"^SigIgn:\s*([0-9a-f]+)$", status, re.M)
        if ignored is None or not int(ignored[1], 16) >> (number - 1) & 1:
            return
        time.sleep(_LOOK_SECONDS)


def say_state(launch_id: str, state: JobStatus) -> None:
    """The supervisor's word on how far it is, for `look`."""
    facts = {"state": state.state, "because": state.because, "exit_code": state.exit_code}
    with contextlib.suppress(OSError):
        write_whole(launch_folder(launch_id) / STATE, json.dumps(facts).encode())


def session_warnings(
    cgroup: Path = Path("/proc/self/cgroup"), logind: Path = Path("/etc/systemd/logind.conf")
) -> tuple[str, ...]:
    """What would end the run together with this shell, as far as systemd lets one see."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        unit = cgroup.read_text().rpartition("/")[2].strip()
        if unit.endswith(".service") and not unit.startswith("user@"):
            found.append(
                f"this shell belongs to {unit}: when systemd stops that, it ends the run too (KillMode=control-group). "
                "To outlive it: systemd-run --user --scope dbr launch local …"
            )
    with contextlib.suppress(OSError):
        if _KILLED_WITH_SESSION.search(logind.read_text()):
            found.append(
                "KillUserProcesses=yes in logind.conf: the run ends when you log out. To outlive it: "
                "systemd-run --user --scope dbr launch local …, and loginctl enable-linger"
            )
    return tuple(found)


def _job(launch_id: str, process: Process) -> Job:
    values = {"launch": launch_id, "process": process.model_dump_json()}
    return Job(name=f"pid {process.pid} on {process.host}", values=values)


def _process(job: Job) -> Process | None:
    try:
        return Process.model_validate_json(job.values.get("process", ""))
    except ValidationError:
        return None


def _said(launch_id: str) -> JobStatus | None:
    try:
        facts = json.loads((launch_folder(launch_id) / STATE).read_bytes())
        return JobStatus(state=facts["state"], because=facts["because"], exit_code=facts["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
