"""Nodes of a Slurm cluster: one job, which requeues itself (infra/submit.slurm) before Slurm ends it for good.

Kill `start` between the job file and sbatch and a file is left in the home, which nothing runs. Between sbatch and the
note of its answer the job runs, and its name has the launch's number.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files

from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack
from dreambooth_resume.launch.base import Job, JobState, JobStatus, LaunchRequest, MachineEnd, Rehearsal
from dreambooth_resume.launch.growing_file import growing_lines
from dreambooth_resume.launch.slurm_settings import SlurmSettings, limit_seconds
from dreambooth_resume.launch.state_folder import output_file
from dreambooth_resume.runs.entries import Price, Process
from dreambooth_resume.runs.home import job_file_key
from dreambooth_resume.storage.urls import open_storage

_PATIENCE_SECONDS = 60.0
_LOOKS, _LOOK_SECONDS = 20, 0.5
_SLURM_IS_EARLY_SECONDS = 60
"""`--signal` may come so much earlier than asked. Source: sbatch(1)."""
_BEGIN, _END = "#SBATCH --job-name=dbr\n", "# Until here.\n"
_SECRET = re.compile(r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|^DBR_NOTIFY$")
_OF_ANOTHER_JOB = re.compile(r"(?:SBATCH|SLURM|SRUN)_(?!CONF$|CLUSTERS$)")
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
_RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING", "RESIZING")


class SlurmLauncher:
    """Submits from here, to the cluster whose sbatch is found; node and login node share folders."""

    shares_folders = True
    needs_package = False
    owns_machine = False
    evaluates = True

    def __init__(self, settings: SlurmSettings) -> None:
        self.settings = settings

    def check(self, request: LaunchRequest) -> None:
        """Names and limits by sinfo; all else (account, QOS, sizes) by sbatch --test-only."""
        default_limit = self._check_partition()
        limit = limit_seconds(self.settings.time or default_limit)
        needed = self.settings.signal_seconds + _SLURM_IS_EARLY_SECONDS
        if limit is not None and limit <= needed:
            raise BadInput(
                f"is {limit} s, and the run is told to save as early as {needed} s before its end",
                where=f"--time {self.settings.time}" if self.settings.time else "the partition's time limit",
                fix="a longer --time, or --signal-seconds 30 for short tests",
            )
        _ask(["sbatch", "--test-only"], job_file(request, self.settings))

    def plan(self, request: LaunchRequest) -> str:
        return f"# sbatch --parsable < {job_file_key(request.launch_id)}\n{job_file(request, self.settings)}"

    def price(self, request: LaunchRequest) -> Price | None:  # noqa: ARG002  Slurm knows of no dollars
        return None

    def start(self, request: LaunchRequest) -> Job:
        text, key = job_file(request, self.settings), job_file_key(request.launch_id)
        storage = open_storage(request.home, request.s3)
        output_file(request.launch_id).parent.mkdir(parents=True, exist_ok=True)
        storage.put_if_absent(key, text.encode())
        try:
            answer = _ask(["sbatch", "--parsable"], text)
        except ComeBack:
            # Without an answer the job may be there.
            _cancel_by_name(request.name)
            storage.delete(key)
            raise
        except BaseException:
            storage.delete(key)
            raise
        return _job(request.launch_id, request.name, number=answer.strip().partition(";")[0])

    def find(self, launch_id: str, name: str) -> Job | None:
        """By its name, which has the launch's number, among the jobs that wait or run."""
        numbers = _ask(["squeue", "--noheader", f"--name={name}", "--format=%A"]).split()
        return _job(launch_id, name, number=numbers[0]) if numbers else None

    def look(self, job: Job) -> JobStatus:
        number = job.values.get("job", "")
        if not number.isdecimal():
            return JobStatus(state="unknown", because=f"{job.name}: has no number of Slurm")
        try:
            facts = _facts(_ask(["scontrol", "--oneliner", "show", "job", number]))
        except BadInput as error:
            if "Invalid job id" in error.what:
                # MinJobAge after its end; five minutes by default.
                return JobStatus(state="ended", because=f"{job.name}: Slurm has forgotten it, so it ended a while ago")
            return JobStatus(state="unknown", because=f"{job.name}: {error.where} {error.what}")
        if facts.get("JobName") != job.values.get("job_name"):
            return JobStatus(state="ended", because=f"{job.name}: Slurm has given its number to another job")
        return _status(job, facts)

    def interrupt(self, job: Job) -> bool:
        number = job.values.get("job", "")
        for _ in range(_LOOKS):
            status = self.look(job)
            if status.state in ("ended", "unknown"):
                return status.state == "ended"
            if status.state == "waiting":
                # Only if it still waits: one that has begun meanwhile is to save first.
                _ask(["scancel", "--state=PENDING", number])
            elif "COMPLETING" not in status.because:
                # To the job's shell, which asks for the stop and requeues nothing after it.
                _ask(["scancel", "--batch", "--signal=INT", number])
                return True
            time.sleep(_LOOK_SECONDS)
        return False

    def rehearse(self, job: Job, how: Rehearsal, *, holder: Process) -> str:  # noqa: ARG002  Slurm knows the node
        """`notice`: the signal that Slurm sends before the time limit. `kill`: SIGKILL to the step, not to its job."""
        number, status = job.values.get("job", ""), self.look(job)
        if status.state != "running" or "COMPLETING" in status.because:
            raise BadInput(f"does not run: {status.because}", where=job.name, fix="dbr status HOME")
        # To the job's only step: sent to the job, KILL would end its shell too, and nobody would requeue it.
        words = ["--batch", "--signal=USR1", number] if how == "notice" else ["--signal=KILL", f"{number}.0"]
        _ask(["scancel", *words])
        return shlex.join(["scancel", *words])

    def release(self, job: Job) -> None:
        """Called when nothing trains: a job that is still there would only wait."""
        if self.look(job).state in ("waiting", "running"):
            _ask(["scancel", job.values["job"]])

    def logs(self, job: Job, *, follow: bool) -> Iterator[str] | None:
        output = output_file(job.values.get("launch", ""))
        if not output.is_file():
            return None
        return growing_lines(output, is_over=lambda: not follow or self.look(job).state in ("ended", "unknown"))

    def end_machine(self, launch_id: str, how: MachineEnd) -> None:  # noqa: ARG002  the node is the cluster's
        return

    def _check_partition(self) -> str:
        """The time limit of a job that asks for none, as Slurm writes it.

        Raises BadInput for a partition that isn't there.
        """
        told = _ask(["sinfo", "--noheader", "--all", "--format=%R|%P|%L|%l"])
        rows = [line.strip().split("|") for line in told.splitlines() if line.count("|") == 3]
        # Without a default time the longest is given.
        limits = {name: longest if default == "n/a" else default for name, _, default, longest in rows}
        chosen = self.settings.partition
        if chosen is None:
            return next((limits[name] for name, shown, _, _ in rows if shown.endswith("*")), "infinite")
        names = chosen.split(",")
        for name in names:
            if name not in limits:
                near = get_close_matches(name, limits, n=1, cutoff=0.5)
                raise BadInput(
                    f"is no partition of this cluster; it has {', '.join(limits)}",
                    where=f"--partition {name}",
                    fix=f"--partition {near[0]}" if near else "one of them; sinfo shows more",
                )
        return limits[names[0]]


def _job(launch_id: str, name: str, *, number: str) -> Job:
    return Job(name=f"Slurm job {number}", values={"launch": launch_id, "job": number, "job_name": name})


def job_file(request: LaunchRequest, settings: SlurmSettings) -> str:
    """infra/submit.slurm with this launch's settings in place of its example's. Nothing of it is secret."""
    template = (files("dreambooth_resume.infra") / "submit.slurm").read_text()
    head, _, rest = template.partition(_BEGIN)
    _, _, body = rest.partition(_END)
    output = str(output_file(request.launch_id))
    options = [
        f"--job-name={request.name}",
        *settings.directives(),
        "--nodes=1",
        "--ntasks=1",
        f"--output={_quoted(output)}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{settings.signal_seconds}",
    ]
    directives = "".join(f"#SBATCH {option}\n" for option in options)
    words = shlex.join([sys.executable, "-m", "dreambooth_resume", *request.command])
    return f"{head}{directives}output={shlex.quote(output)}\nset -- {words}\n{_END}{body}"


def _quoted(path: str) -> str:
    """For an #SBATCH line. Slurm puts other text in place of %j and the like, so a % is doubled."""
    return '"' + path.replace("\\", "\\\\").replace("%", "%%").replace('"', '\\"') + '"'


def _environment(own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What sbatch is given, and by it the job: nothing secret, and no options of sbatch but those in the job file."""
    return {
        name: value
        for name, value in own.items()
        if not _SECRET.search(name.upper()) and not _OF_ANOTHER_JOB.match(name)
    }


def _ask(words: Sequence[str], given: str = "") -> str:
    """What a program of Slurm says. Raises BadInput for what it refuses."""
    program = words[0]
    try:
        done = subprocess.run(
            words, input=given, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False,
            env=_environment(),
        )  # fmt: skip
    except OSError as error:
        raise BadInput(
            "is not installed on this machine",
            where=program,
            fix="type the same on a login node of the cluster, where sinfo works",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ComeBack(f"{program} has not answered for {_PATIENCE_SECONDS:.0f} s; try again later") from error
    if done.returncode == 0:
        return done.stdout
    said = " ".join(line.removeprefix(f"{program}: ").removeprefix("error: ") for line in done.stderr.splitlines())
    said = said.strip()[:400] or f"ended with exit code {done.returncode}"
    if re.search(r"Unable to contact|Socket timed out|Connection refused|Zero Bytes", said):
        raise ComeBack(f"{program}: {said}. Slurm does not answer; try again later")
    if re.search(r"[Aa]ccess.?(?:/permission)? denied|not permitted", said):
        raise AccessDenied(f"{program}: {said}")
    raise BadInput(
        f"says: {said}", where=program, fix="dbr launch slurm --help lists the options; sinfo, what there is"
    )


def _cancel_by_name(name: str) -> None:
    """Best effort: Slurm doesn't answer anyway."""
    try:
        _ask(["scancel", f"--name={name}"])
    except (BadInput, AccessDenied, ComeBack):
        return


def _facts(line: str) -> dict[str, str]:
    """`JobId=1 JobName=x …` of scontrol; a value with spaces loses what is behind them, and none of ours has any."""
    return dict(part.partition("=")[::2] for part in line.split() if "=" in part)


def _status(job: Job, facts: Mapping[str, str]) -> JobStatus:
    said, reason, restarts = facts.get("JobState", ""), facts.get("Reason", "None"), facts.get("Restarts", "0")
    again = f", restart {restarts}" if restarts != "0" else ""
    state: JobState = "waiting" if said in _WAITING else "running" if said in _RUNNING else "ended"
    if state != "ended":
        where = f" on {facts.get('NodeList', '')}" if state == "running" else f" ({reason})"
        return JobStatus(state=state, because=f"{job.name}: {said}{where}{again}")
    code, _, number = facts.get("ExitCode", "").partition(":")
    known = code.isdecimal() and number == "0"
    return JobStatus(
        state="ended",
        because=f"{job.name}: {said}, exit code {code}{again}" if known else f"{job.name}: {said}{again}",
        exit_code=int(code) if known else None,
    )
