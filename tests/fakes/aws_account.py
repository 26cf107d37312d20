"""An account of AWS on this machine: moto's server with what a launch needs to find there.

What moto lacks: permissions (everything is allowed), capacity (every type is there at once), interruptions (an instance
is terminated by hand), AWS's own images in the Parameter Store, and spot instances in a group. Refusals are therefore
tried with botocore's Stubber.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes.s3_server import ENVIRONMENT, S3Server, shared_server

REGION, PROFILE = "us-east-1", "dbr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The server, and an image that there is."""

    server: S3Server
    image: str

    def client(self, service: str) -> Any:
        import boto3

        return boto3.client(service, region_name=REGION, endpoint_url=self.server.url)

    def tagged(self) -> set[str]:
        """Groups, launch templates and living instances that carry the tag of a launch."""
        ec2, tagged = self.client("ec2"), [{"Name": "tag-key", "Values": ["dbr:launch"]}]
        found = {
            f"group {group['AutoScalingGroupName']}"
            for group in self.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
            if any(tag["Key"] == "dbr:launch" for tag in group["Tags"])
        }
        found |= {
            f"template {one['LaunchTemplateName']}"
            for one in ec2.describe_launch_templates(Filters=tagged)["LaunchTemplates"]
        }
        return found | {f"instance {one['InstanceId']}" for one in self.instances(tagged)}

    def instances(self, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that live."""
        alive = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
        answer = self.client("ec2").describe_instances(Filters=[*filters, alive])
        return [one for reservation in answer["Reservations"] for one in reservation["Instances"]]

    def group(self, name: str) -> dict[str, Any] | None:
        """The group as AWS tells of it now; asking makes moto replace what was terminated."""
        groups = self.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])
        return next(iter(groups["AutoScalingGroups"]), None)


def account(patch: pytest.MonkeyPatch) -> Account:
    """The account of this process's server; from now on the SDK speaks to it."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": shared_server().url}.items():
        patch.setenv(name, value)
    return Account(server=shared_server(), image=_filled(shared_server()))


@functools.cache
def _filled(server: S3Server) -> str:
    """Make profile and role; an image of moto's list."""
    import boto3

    iam = boto3.client("iam", endpoint_url=server.url)
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_instance_profile(InstanceProfileName=PROFILE)
        iam.create_role(RoleName=PROFILE, AssumeRolePolicyDocument="{}")
        iam.add_role_to_instance_profile(InstanceProfileName=PROFILE, RoleName=PROFILE)
    images = boto3.client("ec2", region_name=REGION, endpoint_url=server.url).describe_images(
        Filters=[{"Name": "architecture", "Values": ["x86_64"]}, {"Name": "name", "Values": ["*ubuntu*"]}]
    )
    return str(images["Images"][0]["ImageId"])
