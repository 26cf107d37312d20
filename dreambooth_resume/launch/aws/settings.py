"""The own options of the aws launcher."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from dreambooth_resume.config.options.declaration import NOT_BLANK, free
from dreambooth_resume.launch.base import SETTINGS_CONFIG

DEFAULT_AMI_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
"""AWS's Deep Learning Base AMI: Ubuntu 24.04 with Python 3.12 and NVIDIA's driver, and nothing of a framework."""


def _is_ami(value: str | None) -> str | None:
    if value is not None and re.fullmatch(r"ami-[0-9a-f]{8,17}", value) is None:
        raise ValueError("is no image; write ami- and hexadecimal digits, as in ami-0abcdef1234567890")
    return value


class AwsSettings(BaseModel):
    """Machines of Amazon EC2."""

    model_config = SETTINGS_CONFIG

    instance_types: Annotated[str, NOT_BLANK, free()] = "g6.xlarge,g6.2xlarge,g6.4xlarge,g6.8xlarge"
    """Types that will do, separated by commas: the more, the sooner there is a machine. Those of the default all have
    one L4 GPU (24 GB), so a resume on another of them is exact; on another kind of GPU it is equivalent."""

    on_demand: Annotated[bool, free()] = False
    """Dearer machines, which AWS doesn't take away. EC2 doesn't tell their price: price_per_hour does, for a budget."""

    region: Annotated[str | None, NOT_BLANK, free()] = None
    """Where: best the region of the bucket. null: what boto3 finds in the environment or the profile."""

    instance_profile: Annotated[str, NOT_BLANK, free()] = "dbr"
    """The instance profile whose role lets the machine into the bucket; docs/launchers.md says how to make one."""

    ami: Annotated[str | None, AfterValidator(_is_ami), free()] = None
    """The image. null: the newest of AWS's Deep Learning Base AMI (Ubuntu 24.04) at the time of the launch."""

    disk_gb: Annotated[int, Field(ge=30, le=16384), free()] = 100
    """Size of the machine's disk (gp3, encrypted). A fast disk that the type brings along is used on top."""

    subnets: Annotated[str | None, NOT_BLANK, free()] = None
    """Where the machine may stand, separated by commas; it must reach the internet from there. null: all zones of the
    default VPC."""

    security_groups: Annotated[str | None, NOT_BLANK, free()] = None
    """Security groups, separated by commas. null: the VPC's own, into which nobody gets from outside."""

    hf_token_parameter: Annotated[str | None, NOT_BLANK, free()] = None
    """Name of a SecureString in Systems Manager's Parameter Store that holds a Hugging Face token, such as
    /dbr/hf-token, for a gated model. The machine reads it itself; the token is never sent."""
