"""Giving back what was made: from the user's machine, and from the launched one at its end."""

from __future__ import annotations

import os

from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.aws.asking import Aws, Refused
from dreambooth_resume.launch.aws.sent import LAUNCH_TAG
from dreambooth_resume.launch.base import MachineEnd
from dreambooth_resume.preemption.metadata import LINK_LOCAL, MetadataTrouble, ask

_GONE = {"InvalidLaunchTemplateName.NotFoundException", "InvalidLaunchTemplateId.NotFound"}


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


def end_machine(aws: Aws, launch_id: str, how: MachineEnd, *, is_spot: bool) -> None:
    """On the machine itself: no other is made in its place, and it goes as `how` says.

    A spot machine can't be stopped and started by its user, so `stop` ends it. Killed before the first request, the
    group makes another machine, which finds the run at its end and comes here too.
    """
    name = _group_of(aws, launch_id)
    if how == "keep":
        aws.ask("autoscaling", "suspend_processes", {"AutoScalingGroupName": name, "ScalingProcesses": ["Launch"]})
        return
    if how == "stop" and not is_spot:
        this = this_instance()
        aws.ask(
            "autoscaling",
            "detach_instances",
            {"AutoScalingGroupName": name, "InstanceIds": [this], "ShouldDecrementDesiredCapacity": True},
        )
        _set_to_zero(aws, name)
        aws.ask("ec2", "stop_instances", {"InstanceIds": [this]})
        return
    _set_to_zero(aws, name)


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


def _group_of(aws: Aws, launch_id: str) -> str:
    asked = {"Filters": [{"Name": f"tag:{LAUNCH_TAG}", "Values": [launch_id]}]}
    for group in aws.pages("autoscaling", "describe_auto_scaling_groups", asked, "AutoScalingGroups"):
        return str(group["AutoScalingGroupName"])
    raise BadInput(
        f"no group of this launch is there in {aws.region}",
        where=f"launch {launch_id}",
        fix="dbr launch aws --clean-up",
    )


def _set_to_zero(aws: Aws, name: str) -> None:
    aws.ask(
        "autoscaling",
        "update_auto_scaling_group",
        {"AutoScalingGroupName": name, "MinSize": 0, "MaxSize": 0, "DesiredCapacity": 0},
    )
