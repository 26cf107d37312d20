"""Launches as a Job of Kubernetes, through `kubectl`; without it, as a manifest in a file for whoever has it.

Kill `start` while kubectl creates and the Job may be there under the launch's name; a run that it trains is held like
any other.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
from collections.abc import Iterator
from typing import Any

from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack, DbrError
from dreambooth_resume.launch.base import Job, JobStatus, LaunchRequest, MachineEnd
from dreambooth_resume.launch.kubernetes.manifest import manifest_yaml
from dreambooth_resume.launch.kubernetes.settings import KubernetesSettings
from dreambooth_resume.launch.programs import Refused, ask, find_program, lines_of
from dreambooth_resume.launch.state_folder import launch_folder, write_whole
from dreambooth_resume.runs.entries import Price

MANIFEST = "job.yaml"
_ASK_SECONDS = 60.0
_INSTALL = "see https://kubernetes.io/docs/tasks/tools, or ask somebody who has it"
_DENIED = ("forbidden", "unauthorized", "you must be logged in")
_NO_ANSWER = ("unable to connect", "connection refused", "timed out", "no such host", "i/o timeout", "tls handshake")
_NOT_FOUND = "notfound"


class KubernetesLauncher:
    """One pod at a time, which the Job replaces when its node is lost."""

    shares_folders = False
    # The image has it.
    needs_package = False
    # A pod goes when it ends; the node is the cluster's.
    owns_machine = False
    evaluates = True

    def __init__(self, settings: KubernetesSettings) -> None:
        self.settings = settings

    def check(self, request: LaunchRequest) -> None:
        if self.settings.image is None:
            raise BadInput(
                "the cluster needs an image with dbr in it",
                where="--image",
                fix="docker build -f infra/Dockerfile -t REGISTRY/dbr . && docker push REGISTRY/dbr, then: "
                "--image REGISTRY/dbr",
            )
        if not has_kubectl():
            return
        if self.settings.secret is not None and self._get("secret", self.settings.secret) is None:
            raise BadInput(
                f"the cluster has no Secret {self.settings.secret}",
                where="--secret",
                fix=f"kubectl create secret generic {self.settings.secret} --from-literal=HF_TOKEN=hf_…",
            )
        # The cluster itself reads the manifest, looks at what we may, and creates nothing.
        self._ask(["create", "--dry-run=server", "-f", "-"], given=manifest_yaml(request, self.settings))

    def plan(self, request: LaunchRequest) -> str:
        how = (
            "kubectl create -f -"
            if has_kubectl()
            else "kubectl isn't installed here; where it is: kubectl create -f FILE"
        )
        return f"# {how}\n{manifest_yaml(request, self.settings).rstrip()}"

    def price(self, request: LaunchRequest) -> Price | None:  # noqa: ARG002  a cluster has none
        return None

    def start(self, request: LaunchRequest) -> Job:
        text = manifest_yaml(request, self.settings)
        file = launch_folder(request.launch_id) / MANIFEST
        write_whole(file, text.encode())
        values = {"name": request.name}
        if not has_kubectl():
            created = f"kubectl {shlex.join([*self._place(), 'create', '-f', str(file)])}"
            return Job(name=f"a manifest that is not in any cluster yet; type: {created}", values=values)
        try:
            self._ask(["create", "-f", "-"], given=text)
        except BaseException:
            # Without an answer it may be there.
            with contextlib.suppress(DbrError):
                self._delete(request.name)
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                file.parent.rmdir()
            raise
        return Job(name=f"job/{request.name}", values=values)

    def find(self, launch_id: str, name: str) -> Job | None:  # noqa: ARG002  its name has the number
        return None if self._get("job", name) is None else Job(name=f"job/{name}", values={"name": name})

    def look(self, job: Job) -> JobStatus:
        name = job.values.get("name", "")
        if not name:
            return JobStatus(state="unknown", because=f"{job.name}: it isn't said which Job that is")
        if not has_kubectl():
            return JobStatus(state="unknown", because=f"job/{name}: kubectl isn't installed here")
        found = self._get("job", name)
        if found is None:
            return JobStatus(state="ended", because=f"job/{name}: the cluster has no such Job")
        return _status(name, found.get("status", {}))

    def interrupt(self, job: Job) -> bool:
        """No: a pod that is deleted means "come back" to the training, so it is asked through the home."""
        return bool(job.values.get("name")) and has_kubectl() and self.look(job).state == "ended"

    def release(self, job: Job) -> None:
        name = job.values.get("name", "")
        if name and has_kubectl():
            self._delete(name)

    def logs(self, job: Job, *, follow: bool) -> Iterator[str] | None:
        name = job.values.get("name", "")
        if not name or not has_kubectl() or self._get("job", name) is None:
            return None
        words = ["logs", f"job/{name}", *(["--follow", "--pod-running-timeout=10m"] if follow else [])]
        return lines_of([self._program(), *self._place(), *words])

    def end_machine(self, launch_id: str, how: MachineEnd) -> None:  # noqa: ARG002  the cluster does so
        return

    def _program(self) -> str:
        return find_program("kubectl", fix=_INSTALL)

    def _place(self) -> list[str]:
        named = {"--context": self.settings.context, "--namespace": self.settings.namespace}
        return [word for flag, value in named.items() if value is not None for word in (flag, value)]

    def _ask(self, words: list[str], *, given: str = "") -> str:
        """What kubectl prints. Raises as `programs.ask` does, AccessDenied and ComeBack by what kubectl says."""
        try:
            return ask([self._program(), *self._place(), *words], limit_seconds=_ASK_SECONDS, given=given)
        except Refused as error:
            said = error.said.lower()
            if any(word in said for word in _DENIED):
                raise AccessDenied(
                    f"The cluster refuses kubectl {words[0]}: {error.said}. What a launch needs: create, get and "
                    "delete on jobs, get on pods, pods/log and secrets"
                ) from None
            if any(word in said for word in _NO_ANSWER):
                raise ComeBack(f"The cluster does not answer kubectl {words[0]}: {error.said}") from None
            raise

    def _get(self, kind: str, name: str) -> dict[str, Any] | None:
        """None: it isn't there. Of a secret only its name is asked for, never what is in it."""
        form = "name" if kind == "secret" else "json"
        try:
            printed = self._ask(["get", kind, name, "-o", form])
        except Refused as error:
            if _NOT_FOUND in error.said.lower():
                return None
            raise
        found = {} if kind == "secret" else json.loads(printed)
        return found if isinstance(found, dict) else {}

    def _delete(self, name: str) -> None:
        self._ask(["delete", "job", name, "--ignore-not-found", "--wait=false", "--cascade=background"])


def has_kubectl() -> bool:
    """Is kubectl on PATH?"""
    return shutil.which("kubectl") is not None


def _status(name: str, status: dict[str, Any]) -> JobStatus:
    """Of a Job's `status`."""
    for condition in status.get("conditions") or ():
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            why = " ".join(str(condition.get("message") or "").split())[:200]
            return JobStatus(state="ended", because=f"job/{name}: {condition['type']}{f' ({why})' if why else ''}")
    failed = int(status.get("failed") or 0)
    told = f", {failed} pods failed so far" if failed else ""
    if int(status.get("ready") or 0) > 0:
        return JobStatus(state="running", because=f"job/{name}: its pod runs{told}")
    if int(status.get("active") or 0) > 0:
        return JobStatus(state="waiting", because=f"job/{name}: its pod is not ready yet{told}")
    return JobStatus(state="waiting", because=f"job/{name}: no pod yet{told}")
