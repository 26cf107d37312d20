"""Everything in a region that carries the tag of a launch, whoever made it and whatever became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambooth_resume.launch.aws.asking import Aws
from dreambooth_resume.launch.aws.sent import HOME_TAG, LAUNCH_TAG
from dreambooth_resume.launch.base import Leftover

_TAGGED = [{"Name": "tag-key", "Values": [LAUNCH_TAG]}]
_ALIVE = ("pending", "running", "stopping", "stopped")
_OF_GROUP = "aws:autoscaling:groupName"


def find_leftovers(aws: Aws) -> list[Leftover]:
    """Groups first, then the machines that are in none of them, then the launch templates."""
    found: list[Leftover] = []
    groups: set[str] = set()
    for group in aws.pages("autoscaling", "describe_auto_scaling_groups", {"Filters": _TAGGED}, "AutoScalingGroups"):
        name, wanted = str(group["AutoScalingGroupName"]), int(group["DesiredCapacity"])
        groups.add(name)
        found.append(_leftover("group", name, group.get("Tags", ()), is_in_use=wanted > 0, state=f"at {wanted}"))
    asked = {"Filters": [*_TAGGED, {"Name": "instance-state-name", "Values": list(_ALIVE)}]}
    for reservation in aws.pages("ec2", "describe_instances", asked, "Reservations"):
        for one in reservation["Instances"]:
            tags = one.get("Tags", ())
            if _tag(tags, _OF_GROUP) not in groups:
                state = str(one["State"]["Name"])
                found.append(_leftover("machine", one["InstanceId"], tags, is_in_use=False, state=state))
    for one in aws.pages("ec2", "describe_launch_templates", {"Filters": _TAGGED}, "LaunchTemplates"):
        name = str(one["LaunchTemplateName"])
        is_in_use = any(other.name == name and other.is_in_use for other in found)
        found.append(_leftover("launch template", name, one.get("Tags", ()), is_in_use=is_in_use, state="is there"))
    return found


def _leftover(kind: str, name: str, tags: Any, *, is_in_use: bool, state: str) -> Leftover:
    return Leftover(kind=kind, name=name, home=_tag(tags, HOME_TAG), is_in_use=is_in_use, state=state)


def _tag(tags: list[Mapping[str, str]], key: str) -> str:
    return next((tag["Value"] for tag in tags if tag["Key"] == key), "")
