"""Launches on AWS: a launch template and an Auto Scaling group of one machine, and no controller of ours.

Kill `start` between the two and a template is left, which costs nothing: `dbr launch aws --clean-up` finds its tag.
The group replaces a machine that AWS took away. At the end the machine itself sets the group to 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack
from dreambooth_resume.launch.aws.asking import Aws, Refused
from dreambooth_resume.launch.aws.ending import end_machine, remove_group, remove_machines, remove_template
from dreambooth_resume.launch.aws.leftovers import find_leftovers
from dreambooth_resume.launch.aws.lookup import find_all, find_subnets
from dreambooth_resume.launch.aws.rehearsal import machine_of, rehearse_on
from dreambooth_resume.launch.aws.sent import (
    LAUNCH_TAG,
    Found,
    group_parameters,
    plan_text,
    template_parameters,
)
from dreambooth_resume.launch.aws.settings import AwsSettings
from dreambooth_resume.launch.base import Job, JobStatus, LaunchRequest, Leftover, MachineEnd, Rehearsal
from dreambooth_resume.launch.lists import listed
from dreambooth_resume.runs.entries import Price, Process

_PRODUCT = "Linux/UNIX"


class AwsLauncher:
    """Machines of EC2 by an Auto Scaling group of size 1, of several types in all zones of a region."""

    shares_folders = False
    needs_package = True
    owns_machine = True
    evaluates = False

    def __init__(self, settings: AwsSettings) -> None:
        self.settings = settings
        self.aws = Aws(settings.region)

    def check(self, request: LaunchRequest) -> None:
        found = self._find(request)
        # Creating a group has no dry run. What it does with the template is what these two are asked for.
        self.aws.may("ec2", "create_launch_template", template_parameters(request, self.settings, found))
        self.aws.may("ec2", "run_instances", self._one_machine(found))

    def plan(self, request: LaunchRequest) -> str:
        return plan_text(request, self.settings, self._find(request))

    def price(self, request: LaunchRequest) -> Price | None:  # noqa: ARG002  it depends on types and zones alone
        """The dearest of the types in the dearest zone that the group may take; None on demand, which EC2 doesn't tell.

        A budget that errs is to err upwards: the run then stops too soon, and never costs more than was said.
        """
        if self.settings.on_demand:
            return None
        try:
            prices = self._spot_prices()
        except AccessDenied:
            return None
        return Price(per_hour=max(prices)) if prices else None

    def start(self, request: LaunchRequest) -> Job:
        found = self._find(request)
        template = template_parameters(request, self.settings, found)
        group = group_parameters(request, self.settings, found)
        try:
            self.aws.ask("ec2", "create_launch_template", template)
            self._create_group(group, request.launch_id)
        except (Refused, AccessDenied):
            # Nothing came of the request that was refused, and a group of that name is somebody else's.
            remove_template(self.aws, request.name)
            raise
        except BaseException:
            # Without an answer either may be there.
            remove_group(self.aws, request.name)
            remove_template(self.aws, request.name)
            raise
        return _job(request.launch_id, request.name, region=found.region)

    def find(self, launch_id: str, name: str) -> Job | None:
        """By its name, which has the launch's number. A template alone counts: `release` removes it."""
        named = [{"Name": "launch-template-name", "Values": [name]}]
        groups = self.aws.ask("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroupNames": [name]})
        if (
            not groups["AutoScalingGroups"]
            and not self.aws.ask("ec2", "describe_launch_templates", {"Filters": named})["LaunchTemplates"]
        ):
            return None
        return _job(launch_id, name, region=self.aws.region)

    def look(self, job: Job) -> JobStatus:
        name = job.values.get("group", "")
        if not name:
            return JobStatus(state="unknown", because=f"{job.name}: it isn't said which group that is")
        aws = self._of(job)
        groups = aws.ask("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroupNames": [name]})
        if not groups["AutoScalingGroups"]:
            return JobStatus(state="ended", because=f"{name}: the group is no more")
        [group] = groups["AutoScalingGroups"]
        if group["DesiredCapacity"] == 0:
            return JobStatus(state="ended", because=f"{name}: the group is at 0, as the last machine left it")
        ready = [one for one in group["Instances"] if one["LifecycleState"] == "InService"]
        if ready:
            shown = ", ".join(f"{one['InstanceId']} in {one['AvailabilityZone']}" for one in ready)
            return JobStatus(state="running", because=f"{name}: {shown}")
        return JobStatus(state="waiting", because=f"{name}: {self._why_there_is_none(aws, name)}")

    def interrupt(self, job: Job) -> bool:
        """No: a machine that is taken away means "come back", so the training is asked through the home."""
        return self.look(job).state == "ended"

    def rehearse(self, job: Job, how: Rehearsal, *, holder: Process) -> str:
        """`notice`: an interruption by the Fault Injection Service, two minutes ahead. `kill`: terminated at once."""
        aws, name = self._of(job), job.values.get("group", "")
        groups = aws.ask("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroupNames": [name]})
        machines = [one for group in groups["AutoScalingGroups"] for one in group["Instances"]]
        ready = [str(one["InstanceId"]) for one in machines if one["LifecycleState"] == "InService"]
        if not ready:
            raise BadInput("has no machine now", where=job.name, fix="dbr status HOME")
        return rehearse_on(aws, machine_of(aws, holder, ready), how)

    def release(self, job: Job) -> None:
        if name := job.values.get("group"):
            remove_group(self._of(job), name)
            remove_template(self._of(job), name)
        if launch_id := job.values.get("launch"):
            remove_machines(self._of(job), launch_id)

    def logs(self, job: Job, *, follow: bool) -> Iterator[str] | None:  # noqa: ARG002  the copy in the home is better
        return None

    def end_machine(self, launch_id: str, how: MachineEnd) -> None:
        end_machine(self.aws, launch_id, how, is_spot=not self.settings.on_demand)

    def leftovers(self) -> Sequence[Leftover]:
        """Everything in the region that carries the tag of a launch."""
        return find_leftovers(self.aws)

    def remove(self, leftover: Leftover) -> None:
        """Remove one of those; what is gone already is fine."""
        if leftover.kind == "group":
            remove_group(self.aws, leftover.name)
        elif leftover.kind == "launch template":
            remove_template(self.aws, leftover.name)
        else:
            self.aws.ask("ec2", "terminate_instances", {"InstanceIds": [leftover.name]})

    def _find(self, request: LaunchRequest) -> Found:
        if request.s3.endpoint_url is not None:
            raise BadInput(
                f"is no service of AWS, and a machine of AWS has no keys for it ({request.s3.endpoint_url})",
                where="--s3_endpoint_url",
                fix="a home in a bucket of AWS, or another launcher",
            )
        return find_all(self.aws, self.settings)

    def _one_machine(self, found: Found) -> dict[str, Any]:
        """What the group will ask for, as the user."""
        groups = {} if self.settings.security_groups is None else {
            "SecurityGroupIds": list(listed(self.settings.security_groups))
        }  # fmt: skip
        return {
            "ImageId": found.image,
            "InstanceType": found.types[0],
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": found.subnets[0],
            "IamInstanceProfile": {"Name": self.settings.instance_profile},
            **groups,
        }

    def _create_group(self, group: dict[str, Any], launch_id: str) -> None:
        try:
            self.aws.ask("autoscaling", "create_auto_scaling_group", group)
        except Refused as error:
            # An answer that was lost, and the SDK asked again: then it is ours.
            if error.code != "AlreadyExists" or not self._is_ours(group["AutoScalingGroupName"], launch_id):
                raise

    def _is_ours(self, name: str, launch_id: str) -> bool:
        there = self.aws.ask("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroupNames": [name]})
        return any(
            (tag["Key"], tag["Value"]) == (LAUNCH_TAG, launch_id)
            for group in there["AutoScalingGroups"]
            for tag in group.get("Tags", ())
        )

    def _why_there_is_none(self, aws: Aws, name: str) -> str:
        with contextlib.suppress(AccessDenied, ComeBack):
            asked = {"AutoScalingGroupName": name, "MaxRecords": 1}
            for activity in aws.ask("autoscaling", "describe_scaling_activities", asked)["Activities"]:
                return str(activity.get("StatusMessage") or activity.get("Description") or "a machine is on its way")
        return "no machine yet"

    def _spot_prices(self) -> list[float]:
        """What an hour costs now, for each of the types in each zone where the group may have it."""
        types = listed(self.settings.instance_types)
        zones = sorted(set(find_subnets(self.aws, self.settings, types).values()))
        asked = {
            "InstanceTypes": list(types),
            "ProductDescriptions": [_PRODUCT],
            "Filters": [{"Name": "availability-zone", "Values": zones}],
            # From now on: then it tells the prices of now alone.
            "StartTime": datetime.now(UTC),
        }
        newest: dict[tuple[str, str], dict[str, Any]] = {}
        for one in self.aws.pages("ec2", "describe_spot_price_history", asked, "SpotPriceHistory"):
            place = (one["InstanceType"], one["AvailabilityZone"])
            if place not in newest or one["Timestamp"] > newest[place]["Timestamp"]:
                newest[place] = one
        return [float(one["SpotPrice"]) for one in newest.values()]

    def _of(self, job: Job) -> Aws:
        """A job's own region: the settings of today may name another."""
        region = job.values.get("region")
        return self.aws if region in (None, self.settings.region) else Aws(region)


def _job(launch_id: str, name: str, *, region: str) -> Job:
    return Job(name=f"group {name} in {region}", values={"launch": launch_id, "group": name, "region": region})
