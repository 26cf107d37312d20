"""AWS: spot interruptions, rebalance recommendations and Auto Scaling's intentions, by IMDSv2."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime

from dreambooth_resume.preemption.metadata import LINK_LOCAL, Answer, MetadataTrouble, ask
from dreambooth_resume.preemption.signals import COME_BACK
from dreambooth_resume.runs.notice import Notice

_DATA = "/latest/meta-data/"
_TOKEN_SECONDS = 21_600
# A hibernation begins with its notice, and Auto Scaling says no time: what is in host memory has to do.
_NO_TIME_SECONDS = {"hibernate": 5.0, "autoscaling": 30.0}


class AwsSource:
    """Asks the instance metadata service, version 2: a token first, and 404 until there is something to say.

    Source: Amazon EC2 user guide, "Spot Instance interruption notices" and "EC2 instance rebalance recommendations";
    Amazon EC2 Auto Scaling user guide, "Retrieve the target lifecycle state through instance metadata".
    """

    name = "aws"
    lead_seconds = 120.0  # of a spot interruption; a hibernation comes with none
    interval_seconds = 5.0  # as AWS asks for

    def __init__(self, *, base_url: str | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        # The variable is boto3's own, so whoever moves one moves both.
        self._base_url = base_url or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or LINK_LOCAL
        self._monotonic = monotonic
        self._token = ""
        self._deadlines: dict[str, float] = {}

    def is_here(self, *, timeout_seconds: float) -> bool:
        """Whether this is a machine of AWS. Raises MetadataTrouble without an answer."""
        return self._renew_token(timeout_seconds=timeout_seconds)

    def look(self) -> Notice | None:
        """The notice that holds now, or None. Raises MetadataTrouble."""
        if (spot := self._get("spot/instance-action")) is not None:
            return self._spot(spot)
        lifecycle = self._get("autoscaling/target-lifecycle-state")
        if lifecycle is not None and lifecycle.body.strip() == "Terminated":
            return Notice(
                source="AWS Auto Scaling takes this instance away",
                exit_code=COME_BACK,
                deadline_monotonic_s=self._deadline("autoscaling", _NO_TIME_SECONDS["autoscaling"]),
            )
        self._deadlines.pop("autoscaling", None)
        if self._get("events/recommendations/rebalance") is not None:
            return Notice(source="AWS rebalance recommendation", exit_code=COME_BACK, is_advice=True)
        return None

    def _spot(self, answer: Answer) -> Notice:
        try:
            said = json.loads(answer.body)
            action, when = str(said["action"]), datetime.fromisoformat(str(said["time"]))
            left_seconds = (when - answer.now).total_seconds()
        except (ValueError, KeyError, TypeError) as error:
            raise MetadataTrouble(f"spot/instance-action says {answer.body[:200]!r}") from error
        left_seconds = max(left_seconds, _NO_TIME_SECONDS["hibernate"])
        return Notice(
            source=f"AWS spot interruption ({action} at {when:%H:%M:%S} UTC)",
            exit_code=COME_BACK,
            deadline_monotonic_s=self._deadline(f"{action} {when}", left_seconds),
        )

    def _deadline(self, what: str, left_seconds: float) -> float:
        """Reckoned once for each thing that was said: answers in between must not move it."""
        return self._deadlines.setdefault(what, self._monotonic() + left_seconds)

    def _get(self, path: str) -> Answer | None:
        """None: 404, so there is nothing to say."""
        answer = self._ask(path)
        if answer.status == 401:  # the token has run out, or the machine came back from hibernation
            self._renew_token()
            answer = self._ask(path)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise MetadataTrouble(f"{self._base_url}{_DATA}{path} answers {answer.status}")
        return answer

    def _ask(self, path: str) -> Answer:
        if not self._token:
            self._renew_token()
        return ask(self._base_url, _DATA + path, headers={"X-aws-ec2-metadata-token": self._token})

    def _renew_token(self, *, timeout_seconds: float = 1.0) -> bool:
        answer = ask(
            self._base_url,
            "/latest/api/token",
            method="PUT",
            headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)},
            timeout_seconds=timeout_seconds,
        )
        self._token = answer.body.strip() if answer.status == 200 else ""
        return bool(self._token)
