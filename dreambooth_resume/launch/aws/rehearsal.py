"""A rehearsal on AWS: a real interruption notice by the Fault Injection Service, or a machine that is terminated.

Kill between template and experiment: a template is left, which does nothing and costs nothing; its tag is `dbr:drill`.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from typing import Any

from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.launch.aws.asking import Aws, Refused
from dreambooth_resume.launch.base import Rehearsal
from dreambooth_resume.runs.entries import Process

ROLE = "dbr-fis"
"""The role that the service takes on for the experiment, made once by the user (docs/proof.md)."""
_AHEAD = "PT2M"
"""As long as AWS gives notice in earnest."""


def rehearse_on(aws: Aws, instance: str, how: Rehearsal) -> str:
    """Do it to this machine. Raises BadInput where the account has no role for it, or the machine is no spot one."""
    if how == "kill":
        aws.ask("ec2", "terminate_instances", {"InstanceIds": [instance]})
        return f"{instance} terminated"
    _refuse_on_demand(aws, instance)
    role = _role(aws)
    account = role.split(":")[4]
    made = aws.ask(
        "fis", "create_experiment_template", _template(role, f"arn:aws:ec2:{aws.region}:{account}", instance)
    )
    template = str(made["experimentTemplate"]["id"])
    try:
        asked = {"clientToken": uuid.uuid4().hex, "experimentTemplateId": template}
        experiment = str(aws.ask("fis", "start_experiment", asked)["experiment"]["id"])
    finally:
        # An experiment that has begun needs it no more.
        with contextlib.suppress(DbrError):
            aws.ask("fis", "delete_experiment_template", {"id": template})
    return f"experiment {experiment}: {instance} is told that it goes in two minutes"


def machine_of(aws: Aws, holder: Process, ready: Sequence[str]) -> str:
    """The machine of these where the holder trains: while one that may go is replaced, the group has a second.

    Told by the host's name, which EC2 makes of its private address (ip-10-0-1-23) or of its number. Raises BadInput
    where that names none of several.
    """
    if len(ready) == 1:
        return ready[0]
    host = holder.host.partition(".")[0]
    for reservation in aws.ask("ec2", "describe_instances", {"InstanceIds": list(ready)})["Reservations"]:
        for one in reservation["Instances"]:
            address = "ip-" + str(one.get("PrivateIpAddress", "")).replace(".", "-")
            if host in (one["InstanceId"], address, str(one.get("PrivateDnsName", "")).partition(".")[0]):
                return str(one["InstanceId"])
    raise BadInput(
        f"the group has {len(ready)} machines ({', '.join(ready)}), and none is called {host}, where the run trains",
        where="the group",
        fix="the same again in some minutes: AWS replaces one of them by the other",
    )


def _template(role: str, prefix: str, instance: str) -> dict[str, Any]:
    """Source: the action reference of AWS FIS, aws:ec2:send-spot-instance-interruptions."""
    return {
        "clientToken": uuid.uuid4().hex,
        "description": "dbr drill: an interruption notice to one spot machine",
        "roleArn": role,
        "stopConditions": [{"source": "none"}],
        "targets": {
            "machine": {
                "resourceType": "aws:ec2:spot-instance",
                "resourceArns": [f"{prefix}:instance/{instance}"],
                "selectionMode": "ALL",
            }
        },
        "actions": {
            "interrupt": {
                "actionId": "aws:ec2:send-spot-instance-interruptions",
                "parameters": {"durationBeforeInterruption": _AHEAD},
                "targets": {"SpotInstances": "machine"},
            }
        },
        "tags": {"dbr:drill": instance},
    }


def _role(aws: Aws) -> str:
    try:
        return str(aws.ask("iam", "get_role", {"RoleName": ROLE})["Role"]["Arn"])
    except Refused as error:
        if error.code not in ("NoSuchEntity", "NoSuchEntityException"):
            raise
        raise BadInput(
            f"the account has no role {ROLE}, which the Fault Injection Service takes on", where="--how notice",
            fix="make it as docs/proof.md shows, or --how kill, which needs none",
        ) from error  # fmt: skip


def _refuse_on_demand(aws: Aws, instance: str) -> None:
    found = aws.ask("ec2", "describe_instances", {"InstanceIds": [instance]})
    [machine] = [one for reservation in found["Reservations"] for one in reservation["Instances"]]
    if machine.get("InstanceLifecycle") != "spot":
        raise BadInput("is no spot machine, so AWS gives it no notice", where=instance, fix="--how kill terminates it")
