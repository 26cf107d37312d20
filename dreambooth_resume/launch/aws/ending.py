"""Giving back what was made: from the user's machine, and from the launched one at its end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dreambooth_resume.errors import BadInput, ComeBack, DbrError
from dreambooth_resume.launch.aws.asking import Aws, Refused
from dreambooth_resume.launch.aws.sent import LAUNCH_TAG
from dreambooth_resume.launch.base import MachineEnd
from dreambooth_resume.preemption.metadata import LINK_LOCAL, MetadataTrouble, ask

_GONE = {"InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound"}
_IS_ENDING = "IncorrectInstanceState"
_WAITS_SECONDS = (2.0, 5.0, 15.0, 30.0, 60.0)
"""Between the tries of one request, each of which is up to four of the SDK's."""


def remove_group(aws: Aws, name: str) -> None:
    """Delete the group and its machines; gone already is fine."""
    try:
        aws.ask("autoscaling", "delete_auto_scaling_group", {"AutoScalingGroupName": name, "ForceDelete": True})
    except Refused as error:
        # One code for all that is wrong; and a group that is being deleted already says so.
        if "not found" not in error.what.lower() and error.code != "ScalingActivityInProgress":
            raise


def remove_template(aws: Aws, name: str) -> None:
    """Delete the launch template; gone already is fine."""
    named = [{"Name": "launch-template-name", "Values": [name]}]
    if not aws.ask("ec2", "describe_launch_templates", {"Filters": named})["LaunchTemplates"]:
        return
    try:
        aws.ask("ec2", "delete_launch_template", {"LaunchTemplateName": name})
    except Refused as error:
        if error.code not in _GONE:  # somebody else was quicker
            raise


def remove_machines(aws: Aws, launch_id: str) -> None:
    """Terminate what runs of this launch: one that has left the group to be stopped, and was not, is in nobody's hands.

    One that is stopped is its user's, who wanted its disk: `dbr launch aws --clean-up` shows it.
    """
    runs = {"Name": "instance-state-name", "Values": ["pending", "running"]}
    asked = {"Filters": [{"Name": f"tag:{LAUNCH_TAG}", "Values": [launch_id]}, runs]}
    found = [
        str(one["InstanceId"])
        for reservation in aws.pages("ec2", "describe_instances", asked, "Reservations")
        for one in reservation["Instances"]
    ]
    if found:
        aws.ask("ec2", "terminate_instances", {"InstanceIds": found})


def end_machine(
    aws: Aws, launch_id: str, how: MachineEnd, *, is_spot: bool, sleep: Callable[[float], None] = time.sleep
) -> None:
    """On the machine itself: no other is made in its place, and it goes as `how` says.

    A spot machine can't be stopped and started by its user, so `stop` ends it. Killed before the first request, the
    group makes another machine, which finds the run at its end and comes here too; killed before a later one, this
    machine's next supervisor does, and what is done already is passed over.
    """
    asking = _Asking(aws, sleep)
    if how == "stop" and not is_spot:
        _stop(asking, launch_id)
        return
    name = _group_of(asking, launch_id)
    if name is None:
        raise BadInput(
            f"no group of this launch is there in {aws.region}",
            where=f"launch {launch_id}",
            fix="dbr launch aws --clean-up",
        )
    if how == "keep":
        asking.ask("autoscaling", "suspend_processes", {"AutoScalingGroupName": name, "ScalingProcesses": ["Launch"]})
        return
    _set_to_zero(asking, name)


def _stop(asking: _Asking, launch_id: str) -> None:
    """Out of the group, which would end it, and then stopped."""
    this = this_instance()
    # Whatever AWS says to the first requests, the last one is made: a group that has this machine still ends it or
    # makes another, which finds the run at its end and comes here too. The disk may be lost, and no money.
    with contextlib.suppress(DbrError):
        if (name := _group_of(asking, launch_id)) is not None:
            leaving = {"AutoScalingGroupName": name, "InstanceIds": [this], "ShouldDecrementDesiredCapacity": True}
            # An earlier supervisor of this machine may have come as far as this: then it is refused.
            with contextlib.suppress(DbrError):
                asking.ask("autoscaling", "detach_instances", leaving)
            _set_to_zero(asking, name)
    try:
        asking.ask("ec2", "stop_instances", {"InstanceIds": [this]})
    except Refused as error:
        if error.code != _IS_ENDING:
            raise


@dataclass(frozen=True, slots=True)
class _Asking:
    """Asks again while AWS doesn't answer: a machine that gives up here is paid for until somebody sees it."""

    aws: Aws
    sleep: Callable[[float], None]

    def ask(self, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The answer. Raises as `Aws.ask` does, ComeBack after the last of `_WAITS_SECONDS`."""
        for wait_seconds in _WAITS_SECONDS:
            try:
                return self.aws.ask(service, operation, parameters)
            except ComeBack:
                self.sleep(wait_seconds)
        return self.aws.ask(service, operation, parameters)


def this_instance() -> str:
    """The number of the machine that this runs on. Raises BadInput off AWS."""
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or LINK_LOCAL
    try:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = ask(base, "/latest/api/token", method="PUT", headers=lifetime)
        said = ask(base, "/latest/meta-data/instance-id", headers={"X-aws-ec2-metadata-token": token.body.strip()})
    except MetadataTrouble as error:
        raise BadInput(f"is no machine of AWS: {error}", where="this machine", fix="end it by hand") from error
    if said.status != 200:
        raise BadInput(f"no instance-id ({said.status})", where="this machine", fix="end it by hand")
    return said.body.strip()


def _group_of(asking: _Asking, launch_id: str) -> str | None:
    asked = {"Filters": [{"Name": f"tag:{LAUNCH_TAG}", "Values": [launch_id]}]}
    for group in asking.ask("autoscaling", "describe_auto_scaling_groups", asked)["AutoScalingGroups"]:
        return str(group["AutoScalingGroupName"])
    return None


def _set_to_zero(asking: _Asking, name: str) -> None:
    asking.ask(
        "autoscaling",
        "update_auto_scaling_group",
        {"AutoScalingGroupName": name, "MinSize": 0, "MaxSize": 0, "DesiredCapacity": 0},
    )
