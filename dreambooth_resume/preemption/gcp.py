"""Google Cloud: preempted spot machines and host maintenance that ends a machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from dreambooth_resume.preemption.metadata import LINK_LOCAL, MetadataTrouble, ask
from dreambooth_resume.preemption.signals import COME_BACK
from dreambooth_resume.runs.notice import Notice

_INSTANCE = "/computeMetadata/v1/instance/"
_HEADERS = {"Metadata-Flavor": "Google"}
PREEMPTED_SECONDS = 30.0
MAINTENANCE_SECONDS = 60.0
GPU_MAINTENANCE_SECONDS = 3300.0
"""A machine with a GPU is told about an hour ahead; five minutes of it are left for what we don't know."""


class GcpSource:
    """Asks the metadata server. Source: Compute Engine documentation, "Preemptible VM instances", "Spot VMs" and
    "Monitor and plan for a host maintenance event".
    """

    name = "gcp"
    lead_seconds = 30.0
    interval_seconds = 2.0

    def __init__(
        self,
        *,
        base_url: str | None = None,
        has_gpu: bool | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        host = os.environ.get("GCE_METADATA_HOST")  # Google's own libraries read it
        self._base_url = base_url or (f"http://{host}" if host else LINK_LOCAL)
        self._has_gpu = Path("/dev/nvidia0").exists() if has_gpu is None else has_gpu
        self._monotonic = monotonic
        self._since: dict[str, float] = {}

    def is_here(self, *, timeout_seconds: float) -> bool:
        """Whether this is a machine of Google Cloud. Raises MetadataTrouble without an answer."""
        answer = ask(self._base_url, "/computeMetadata/v1/", headers=_HEADERS, timeout_seconds=timeout_seconds)
        return answer.status == 200 and answer.flavor == "Google"

    def look(self) -> Notice | None:
        """The notice that holds now, or None. Raises MetadataTrouble."""
        if self._get("preempted") == "TRUE":
            return self._notice("GCP preempts this machine", PREEMPTED_SECONDS)
        if self._get("maintenance-event") == "TERMINATE_ON_HOST_MAINTENANCE":
            lead_seconds = GPU_MAINTENANCE_SECONDS if self._has_gpu else MAINTENANCE_SECONDS
            return self._notice("GCP ends this machine for host maintenance", lead_seconds)
        self._since.clear()
        return None

    def _notice(self, source: str, lead_seconds: float) -> Notice:
        since = self._since.setdefault(source, self._monotonic())
        return Notice(source=source, exit_code=COME_BACK, deadline_monotonic_s=since + lead_seconds)

    def _get(self, name: str) -> str:
        answer = ask(self._base_url, _INSTANCE + name, headers=_HEADERS)
        if answer.status == 404:  # not every kind of machine has every value
            return ""
        if answer.status != 200:
            raise MetadataTrouble(f"{self._base_url}{_INSTANCE}{name} answers {answer.status}")
        return answer.body.strip()
