"""What a launch needs to find in the account. Everything is asked before anything is made, and nothing is changed."""

from __future__ import annotations

from typing import Any

from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.aws.asking import Aws, Refused
from dreambooth_resume.launch.aws.sent import Found
from dreambooth_resume.launch.aws.settings import DEFAULT_AMI_PARAMETER, AwsSettings
from dreambooth_resume.launch.lists import listed


def find_all(aws: Aws, settings: AwsSettings) -> Found:
    """Types, image, subnets and instance profile. Raises BadInput for one that isn't there, AccessDenied, ComeBack."""
    types = _types(aws, listed(settings.instance_types))
    image = _image(aws, settings.ami)
    _refuse_other_processors(types, image)
    _refuse_small_disk(image, settings.disk_gb)
    _profile(aws, settings.instance_profile)
    names = tuple(one["InstanceType"] for one in types)
    gpus = {gpu["Name"] for one in types for gpu in one.get("GpuInfo", {}).get("Gpus", ())}
    return Found(
        region=aws.region,
        image=image["ImageId"],
        root_device=image["RootDeviceName"],
        types=names,
        subnets=tuple(find_subnets(aws, settings, names)),
        gpus=tuple(sorted(gpus)),
    )


def _types(aws: Aws, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """In the order in which they were named."""
    try:
        found = aws.ask("ec2", "describe_instance_types", {"InstanceTypes": list(names)})["InstanceTypes"]
    except Refused as error:
        raise BadInput(
            f"{error.what} in {aws.region}", where="--instance_types",
            fix="aws ec2 describe-instance-types lists those that there are; g6.xlarge is one",
        ) from error  # fmt: skip
    return sorted(found, key=lambda one: names.index(one["InstanceType"]))


def _image(aws: Aws, ami: str | None) -> dict[str, Any]:
    where = "--ami"
    try:
        if ami is None:
            asked = {"Name": DEFAULT_AMI_PARAMETER}
            ami = str(aws.ask("ssm", "get_parameter", asked)["Parameter"]["Value"])
        images = aws.ask("ec2", "describe_images", {"ImageIds": [ami]})["Images"]
    except Refused as error:
        what = f"there is no image {ami}" if ami else "AWS's own image for GPUs is not there"
        fix = "--ami ami-…, with Linux, Python 3.11 or newer and NVIDIA's driver"
        raise BadInput(f"{what} in {aws.region} ({error.code})", where=where, fix=fix) from error
    if not images:
        raise BadInput(f"there is no image {ami} in {aws.region}", where=where, fix="an image of that region")
    image: dict[str, Any] = images[0]
    return image


def _refuse_other_processors(types: list[dict[str, Any]], image: dict[str, Any]) -> None:
    built_for = image.get("Architecture", "x86_64")
    for one in types:
        known = one.get("ProcessorInfo", {}).get("SupportedArchitectures", [built_for])
        if built_for not in known:
            raise BadInput(
                f"{one['InstanceType']} has another processor ({', '.join(known)}) than the image ({built_for})",
                where="--instance_types",
                fix="leave it out, or name an image for it: --ami ami-…",
            )


def _refuse_small_disk(image: dict[str, Any], disk_gb: int) -> None:
    for disk in image.get("BlockDeviceMappings", ()):
        needed_gb = disk.get("Ebs", {}).get("VolumeSize", 0)
        if disk.get("DeviceName") == image["RootDeviceName"] and needed_gb > disk_gb:
            raise BadInput(
                f"the image {image['ImageId']} alone takes {needed_gb} GB", where=f"--disk_gb {disk_gb}",
                fix=f"--disk_gb {needed_gb + 50} or more",
            )  # fmt: skip


def _profile(aws: Aws, name: str) -> None:
    try:
        profile = aws.ask("iam", "get_instance_profile", {"InstanceProfileName": name})["InstanceProfile"]
    except Refused as error:
        if error.code != "NoSuchEntity":
            raise
        raise BadInput(
            f"there is no instance profile {name} in this account", where="--instance_profile",
            fix="make one as docs/launchers.md shows, or name another",
        ) from error  # fmt: skip
    if not profile["Roles"]:
        raise BadInput(
            f"the instance profile {name} has no role", where="--instance_profile",
            fix=f"aws iam add-role-to-instance-profile --instance-profile-name {name} --role-name ROLE",
        )  # fmt: skip


def find_subnets(aws: Aws, settings: AwsSettings, types: tuple[str, ...]) -> dict[str, str]:
    """Those given, else one in each zone of the default VPC, with their zones; none where none of the types is offered.

    Sorted by the subnet's name. Raises as `find_all` does.
    """
    if settings.subnets is not None:
        asked: dict[str, Any] = {"SubnetIds": list(listed(settings.subnets))}
    else:
        asked = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
    try:
        subnets = list(aws.pages("ec2", "describe_subnets", asked, "Subnets"))
    except Refused as error:
        raise BadInput(
            error.what, where="--subnets", fix="aws ec2 describe-subnets lists those that there are"
        ) from error
    if not subnets:
        raise BadInput(f"there is no default VPC in {aws.region}", where="--subnets", fix="--subnets subnet-…,subnet-…")
    offered = {
        one["Location"]
        for one in aws.pages(
            "ec2",
            "describe_instance_type_offerings",
            {"LocationType": "availability-zone", "Filters": [{"Name": "instance-type", "Values": list(types)}]},
            "InstanceTypeOfferings",
        )
    }
    zone_of = {str(one["SubnetId"]): str(one["AvailabilityZone"]) for one in subnets}
    found = {name: zone for name, zone in sorted(zone_of.items()) if zone in offered}
    if not found:
        zones = ", ".join(sorted({one["AvailabilityZone"] for one in subnets}))
        raise BadInput(
            f"{', '.join(types)}: not offered in any of {zones}", where="--instance_types",
            fix="other types, another --region, or other --subnets",
        )  # fmt: skip
    return found
