"""Launches on Hugging Face Jobs, through huggingface_hub.

Kill `start` while it asks and the job may be there; it carries the launch's number as a label, and a run that it trains
is held like any other. The Hub gives no notice: the training leaves by its own deadline, ends with 75, and the Hub's
next attempt goes on.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack, DbrError
from dreambooth_resume.launch.base import Job, JobState, JobStatus, LaunchRequest, MachineEnd
from dreambooth_resume.launch.hf_jobs.job import LABEL, PYTHON, SCRIPT, Sent, plan_text, sent
from dreambooth_resume.launch.hf_jobs.settings import HfJobsSettings
from dreambooth_resume.launch.lists import listed
from dreambooth_resume.launch.programs import values_of
from dreambooth_resume.runs.entries import Price

_TOKEN = "HF_TOKEN"
_STATES: dict[str, JobState] = {"SCHEDULING": "waiting", "RUNNING": "running"}
"""The Hub's words for what isn't over."""
_AN_HOUR = {"minute": 60.0, "hour": 1.0, "second": 3600.0}
_NOT_FOUND = 404


class HfJobsLauncher:
    """Jobs of the Hub, several attempts of limited time each."""

    shares_folders = False
    needs_package = True
    # A job's machine goes with the job.
    owns_machine = False
    evaluates = False

    def __init__(self, settings: HfJobsSettings) -> None:
        self.settings = settings

    def check(self, request: LaunchRequest) -> None:  # noqa: ARG002  it depends on the settings alone
        self._secrets()
        with _translated("asking who the token belongs to"):
            _hub().whoami()
        flavors = [one.name for one in self._hardware()]
        if self.settings.flavor not in flavors:
            near = get_close_matches(self.settings.flavor, flavors, n=1, cutoff=0.5)
            raise BadInput(
                f"{self.settings.flavor} is no kind of machine of the Hub",
                where="--flavor",
                fix=f"--flavor {near[0]}" if near else f"one of: {', '.join(flavors)}",
            )

    def plan(self, request: LaunchRequest) -> str:
        return plan_text(sent(request, self.settings))

    def price(self, request: LaunchRequest) -> Price | None:  # noqa: ARG002  it depends on the flavor alone
        """What the Hub's list says; nothing is dearer on demand, since the Hub has no spot machines."""
        for one in self._hardware():
            if one.name == self.settings.flavor and one.unit_label in _AN_HOUR:
                return Price(per_hour=float(one.unit_cost_usd) * _AN_HOUR[one.unit_label])
        return None

    def start(self, request: LaunchRequest) -> Job:
        job, secrets = sent(request, self.settings), self._secrets()
        try:
            with _translated("starting the job"):
                started = _run(job, secrets)
        except BaseException:
            # The answer may have been lost on its way here.
            with contextlib.suppress(DbrError):
                self._cancel_all(request.launch_id)
            raise
        return _job(started)

    def find(self, launch_id: str, name: str) -> Job | None:  # noqa: ARG002  by its label
        with _translated("looking for jobs of this launch"):
            return next((_job(one) for one in self._alive(launch_id)), None)

    def look(self, job: Job) -> JobStatus:
        if not job.values.get("id"):
            return JobStatus(state="unknown", because=f"{job.name}: it isn't said which job that is")
        try:
            with _translated("looking at the job"):
                found = _hub().inspect_job(job_id=job.values["id"], namespace=job.values.get("namespace"))
        except _NotThere:
            return JobStatus(state="ended", because=f"{job.name}: the Hub has it no more")
        stage = str(getattr(found.status.stage, "value", found.status.stage))
        told = f"{job.name}: {stage}"
        if found.status.message:
            told += f" ({' '.join(str(found.status.message).split())[:200]})"
        return JobStatus(state=_STATES.get(stage, "ended"), because=told)

    def interrupt(self, job: Job) -> bool:
        """No: the Hub doesn't say that a cancelled job may save, so the training is asked through the home."""
        return self.look(job).state == "ended"

    def release(self, job: Job) -> None:
        if self.look(job).state in ("waiting", "running"):
            self._cancel(job.values["id"], job.values.get("namespace"))

    def logs(self, job: Job, *, follow: bool) -> Iterator[str] | None:
        if not job.values.get("id"):
            return None
        return self._lines(job.values["id"], job.values.get("namespace"), follow=follow)

    def end_machine(self, launch_id: str, how: MachineEnd) -> None:  # noqa: ARG002  the Hub does so
        return

    def _lines(self, job_id: str, namespace: str | None, *, follow: bool) -> Iterator[str]:
        with _translated("reading the job's log"):
            for text in _hub().fetch_job_logs(job_id=job_id, namespace=namespace, follow=follow):
                yield from str(text).splitlines() or [""]

    def _hardware(self) -> list[Any]:
        with _translated("asking for the kinds of machines"):
            return list(_hub().list_jobs_hardware())

    def _secrets(self) -> dict[str, str]:
        """Raises BadInput for one that this shell doesn't have, and where no token is there to ask the Hub with."""
        from huggingface_hub import get_token

        token = get_token()
        if not token:
            raise BadInput(
                "there is no token for the Hub, and its jobs need one",
                where="dbr launch hf-jobs",
                fix="make one at https://huggingface.co/settings/tokens, then: hf auth login (or set HF_TOKEN)",
            )
        names = listed(self.settings.secrets)
        others = values_of([name for name in names if name != _TOKEN], where="--secrets")
        return {**others, **({_TOKEN: os.environ.get(_TOKEN) or token} if _TOKEN in names else {})}

    def _cancel(self, job_id: str, namespace: str | None) -> None:
        with contextlib.suppress(_NotThere), _translated("cancelling the job"):
            _hub().cancel_job(job_id=job_id, namespace=namespace)

    def _cancel_all(self, launch_id: str) -> None:
        """Jobs that carry this launch's label."""
        with _translated("looking for jobs of this launch"):
            for one in self._alive(launch_id):
                self._cancel(str(one.id), str(one.owner.name))

    def _alive(self, launch_id: str) -> list[Any]:
        hub = _hub()
        owner = self.settings.namespace or hub.whoami()["name"]
        found = hub.list_jobs(labels={LABEL: launch_id}, namespace=owner)
        return [one for one in found if str(getattr(one.status.stage, "value", one.status.stage)) in _STATES]


def _job(found: Any) -> Job:
    owner = str(found.owner.name)
    return Job(name=f"job {found.id} of {owner}", values={"id": str(found.id), "namespace": owner})


class _NotThere(BadInput):
    """The Hub has no such thing."""


def _hub() -> Any:
    # The library takes 0.2 s, and only who launches here needs it.
    from huggingface_hub import HfApi

    return HfApi()


def _run(job: Sent, secrets: dict[str, str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / SCRIPT
        file.write_text(job.script, encoding="utf-8")
        # It prints where it has put the script, and warns that it may change.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _hub().run_uv_job(
                str(file),
                python=PYTHON,
                env=dict(job.environment),
                secrets=secrets,
                flavor=job.flavor,
                timeout=job.timeout_seconds,
                attempts=job.attempts,
                name=job.name,
                labels={LABEL: job.launch_id},
                namespace=job.namespace,
            )


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """The Hub's errors as ours."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        raise _ours(error, doing) from None
    except (httpx2.HTTPError, OSError) as error:
        raise ComeBack(f"The Hub does not answer ({doing}): {' '.join(str(error).split())[:200]}") from None


def _ours(error: Any, doing: str) -> DbrError:
    status = error.response.status_code
    said = " ".join(str(getattr(error, "server_message", None) or error).split())[:300].removesuffix(".")
    if status in (401, 403):
        return AccessDenied(
            f"The Hub refuses ({doing}, {status}): {said}. The token needs the permission to start jobs: "
            "https://huggingface.co/settings/tokens"
        )
    if status == 402:
        return BadInput(
            f"the Hub wants to be paid first ({doing}): {said}",
            where="dbr launch hf-jobs",
            fix="add credit at https://huggingface.co/settings/billing, or name who pays: --namespace",
        )
    if status == _NOT_FOUND:
        return _NotThere(f"the Hub has no such thing ({doing}): {said}", where="dbr launch hf-jobs")
    if status == 429 or status >= 500:
        return ComeBack(f"The Hub does not answer now ({doing}, {status}). The same command tries again.")
    return BadInput(f"the Hub refuses ({doing}, {status}): {said}", where="dbr launch hf-jobs")
