"""What is sent to AWS for a launch, from values alone: the launch template, the group, and the user data."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreambooth_resume.launch.aws.settings import AwsSettings
from dreambooth_resume.launch.base import LaunchRequest
from dreambooth_resume.launch.lists import listed
from dreambooth_resume.launch.machine_settings import infra_file, machine_settings, told_of_notices

LAUNCH_TAG, HOME_TAG = "dbr:launch", "dbr:home"
_LONGEST_TAG = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was looked up in the account for this launch."""

    region: str
    image: str
    root_device: str
    types: tuple[str, ...]
    subnets: tuple[str, ...]
    """One or more in each zone that has any of the types."""
    gpus: tuple[str, ...]
    """Their names, each once; empty where a type has none."""


def template_parameters(request: LaunchRequest, settings: AwsSettings, found: Found) -> dict[str, Any]:
    """Of ec2:CreateLaunchTemplate."""
    tags = _tags(request)
    data: dict[str, Any] = {
        "ImageId": found.image,
        "IamInstanceProfile": {"Name": settings.instance_profile},
        # Version 2 alone: a request that a program is tricked into can't read the role's credentials.
        "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "BlockDeviceMappings": [
            {
                "DeviceName": found.root_device,
                "Ebs": {
                    "VolumeType": "gp3",
                    "VolumeSize": settings.disk_gb,
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume")],
        "UserData": base64.b64encode(user_data(request, settings, found.region).encode()).decode(),
    }
    if settings.security_groups is not None:
        data["SecurityGroupIds"] = list(listed(settings.security_groups))
    return {
        "LaunchTemplateName": request.name,
        "ClientToken": request.launch_id,
        "LaunchTemplateData": data,
        "TagSpecifications": [{"ResourceType": "launch-template", "Tags": tags}],
    }


def group_parameters(request: LaunchRequest, settings: AwsSettings, found: Found) -> dict[str, Any]:
    """Of autoscaling:CreateAutoScalingGroup: one machine, wherever there is one."""
    return {
        "AutoScalingGroupName": request.name,
        "MinSize": 0,
        "MaxSize": 1,
        "DesiredCapacity": 1,
        "VPCZoneIdentifier": ",".join(found.subnets),
        # A machine that is likely to be taken away is replaced before that: the new one waits for the holder.
        "CapacityRebalance": not settings.on_demand,
        "MixedInstancesPolicy": {
            "LaunchTemplate": {
                "LaunchTemplateSpecification": {"LaunchTemplateName": request.name, "Version": "1"},
                "Overrides": [{"InstanceType": name} for name in found.types],
            },
            "InstancesDistribution": {
                "OnDemandBaseCapacity": 0,
                "OnDemandPercentageAboveBaseCapacity": 100 if settings.on_demand else 0,
                "OnDemandAllocationStrategy": "lowest-price",
                "SpotAllocationStrategy": "price-capacity-optimized",
            },
        },
        "Tags": [
            {
                "ResourceId": request.name,
                "ResourceType": "auto-scaling-group",
                "Key": tag["Key"],
                "Value": tag["Value"],
                "PropagateAtLaunch": True,
            }
            for tag in _tags(request)
        ],
    }


def user_data(request: LaunchRequest, settings: AwsSettings, region: str) -> str:
    """infra/startup.sh with this launch's settings behind its first line. Nothing of it is secret.

    Without the lines that are comments: AWS takes 16 KiB.
    """
    told = {"AWS_DEFAULT_REGION": region, **machine_settings(told_of_notices(request, "aws"))}
    told |= {"DBR_GROUP": request.name, "DBR_HF_TOKEN_PARAMETER": settings.hf_token_parameter or ""}
    first, _, script = infra_file("startup.sh").partition("\n")
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in told.items() if value)
    code = "".join(line for line in script.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    return f"{first}\n{exports}{code}"


def plan_text(request: LaunchRequest, settings: AwsSettings, found: Found) -> str:
    """Both requests, and the user data as it is before it is put into base64."""
    template = template_parameters(request, settings, found)
    template["LaunchTemplateData"]["UserData"] = "what stands below, in base64"
    lines = [
        f"# ec2:CreateLaunchTemplate, in {found.region}",
        _shown(template),
        f"# autoscaling:CreateAutoScalingGroup, in {found.region}",
        _shown(group_parameters(request, settings, found)),
    ]
    if len(found.gpus) > 1:
        lines.append(f"# {', '.join(found.gpus)}: a resume on another kind of GPU is equivalent, not exact.")
    return "\n".join([*lines, "# the user data", user_data(request, settings, found.region)])


def _shown(parameters: Mapping[str, Any]) -> str:
    return json.dumps(parameters, indent=2)


def _tags(request: LaunchRequest) -> list[dict[str, str]]:
    return [
        {"Key": "Name", "Value": request.name},
        {"Key": LAUNCH_TAG, "Value": request.launch_id},
        {"Key": HOME_TAG, "Value": request.home[:_LONGEST_TAG]},
    ]
