"""What infra/startup.sh and infra/hf_job.py are told on a launched machine, as variables of the environment."""

from __future__ import annotations

import shlex
from dataclasses import replace
from importlib.resources import files

from dreambooth_resume.launch.base import LaunchRequest
from dreambooth_resume.preemption.sources import AUTO, CLOUDS


def told_of_notices(request: LaunchRequest, cloud: str | None) -> LaunchRequest:
    """The request for machines of a `cloud` that is known: nobody has to find out there whose notices to read.

    As it is where the user has named one, or said none, and for an evaluation, which has no such option.
    """
    if cloud not in CLOUDS or request.options.preemption.spot != AUTO or request.purpose == "eval":
        return request
    # The last of two wins, so this one holds over what the home's note of the launch has.
    return replace(request, command=(*request.command, "--spot", cloud))


def machine_settings(request: LaunchRequest) -> dict[str, str]:
    """The home, the words behind `dbr`, and the package by its keys and digests. Nothing of it is secret."""
    told = {"DBR_HOME": request.home, "DBR_WORDS": shlex.join(request.command)}
    if (package := request.package) is not None:
        told |= {
            "DBR_WHEEL": package.wheel_key,
            "DBR_WHEEL_SHA256": package.wheel_sha256,
            "DBR_CONSTRAINTS": package.constraints_key,
            "DBR_CONSTRAINTS_SHA256": package.constraints_sha256,
            "DBR_EXTRAS": ",".join(package.extras),
        }
    return told


def service_settings(request: LaunchRequest) -> dict[str, str]:
    """Where the bucket's service is, and how it is addressed: the package is read before dbr is there."""
    told = {
        "AWS_ENDPOINT_URL_S3": request.s3.endpoint_url,
        "AWS_DEFAULT_REGION": request.s3.region,
        "DBR_S3_PATH_STYLE": {True: "yes", False: "no", None: None}[request.s3.path_style],
    }
    return {name: value for name, value in told.items() if value}


def infra_file(name: str) -> str:
    """The text of a file in infra/."""
    return (files("dreambooth_resume.infra") / name).read_text(encoding="utf-8")
