"""Azure: Scheduled Events for this very machine. An event may be cancelled again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from typing import Any

from dreambooth_resume.preemption.metadata import LINK_LOCAL, Answer, MetadataTrouble, ask
from dreambooth_resume.preemption.signals import COME_BACK
from dreambooth_resume.runs.notice import Notice

_EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
_NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_HEADERS = {"Metadata": "true"}
# Freeze is left out: the machine stands still for some seconds and goes on.
_LEAD_SECONDS = {"Preempt": 30.0, "Terminate": 300.0, "Reboot": 900.0, "Redeploy": 600.0}


class AzureSource:
    """Asks the instance metadata service. Source: Azure documentation, "Scheduled Events for Linux VMs"."""

    name = "azure"
    lead_seconds = 30.0
    interval_seconds = 2.0

    def __init__(self, *, base_url: str | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._base_url = base_url or os.environ.get("DBR_AZURE_METADATA_URL") or LINK_LOCAL
        self._monotonic = monotonic
        self._own_name: str | None = None
        self._deadlines: dict[str, float] = {}

    def is_here(self, *, timeout_seconds: float) -> bool:
        """Whether this is a machine of Azure. Raises MetadataTrouble without an answer."""
        answer = ask(self._base_url, _NAME, headers=_HEADERS, timeout_seconds=timeout_seconds)
        if answer.status == 200 and answer.body.strip():
            self._own_name = answer.body.strip()
        return self._own_name is not None

    def look(self) -> Notice | None:
        """The notice that holds now, or None. Raises MetadataTrouble: the very first call may take two minutes."""
        if self._own_name is None and not self.is_here(timeout_seconds=1.0):
            raise MetadataTrouble(f"{self._base_url}{_NAME} does not say this machine's name")
        answer = ask(self._base_url, _EVENTS, headers=_HEADERS)
        if answer.status != 200:
            raise MetadataTrouble(f"{self._base_url}{_EVENTS} answers {answer.status}")
        notices = [self._notice(event, answer) for event in self._own_events(answer)]
        return min(notices, key=lambda notice: notice.deadline_monotonic_s or 0.0, default=None)

    def _own_events(self, answer: Answer) -> Iterable[dict[str, Any]]:
        try:
            events = json.loads(answer.body)["Events"]
            return [
                event
                for event in events
                if event["EventType"] in _LEAD_SECONDS
                and self._own_name in event["Resources"]
                and event.get("EventStatus") not in ("Completed", "Canceled")
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise MetadataTrouble(f"scheduledevents says {answer.body[:200]!r}") from error

    def _notice(self, event: dict[str, Any], answer: Answer) -> Notice:
        kind, not_before = str(event["EventType"]), str(event.get("NotBefore") or "")
        try:
            left_seconds = (parsedate_to_datetime(not_before) - answer.now).total_seconds()
        except (TypeError, ValueError):  # no time is named once the event has begun
            left_seconds = _LEAD_SECONDS["Preempt"] if event.get("EventStatus") == "Started" else _LEAD_SECONDS[kind]
        what = f"{event.get('EventId')} {not_before}"
        deadline = self._deadlines.setdefault(what, self._monotonic() + max(left_seconds, 5.0))
        return Notice(source=f"Azure {kind}", exit_code=COME_BACK, deadline_monotonic_s=deadline)
