"""A rehearsal on AWS: what the services are asked, checked by the SDK's own models. Nothing of it was run on AWS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from dreambooth_resume.errors import AccessDenied, BadInput
from dreambooth_resume.launch.aws.launcher import AwsLauncher
from dreambooth_resume.launch.aws.settings import AwsSettings
from dreambooth_resume.launch.base import Job, Rehearsal
from dreambooth_resume.runs.holder import this_process
from tests.fakes.s3_server import ENVIRONMENT

pytestmark = pytest.mark.quick

REGION, INSTANCE = "eu-central-1", "i-0123456789abcdef0"
OTHER = "i-0fedcba9876543210"
JOB = Job(name="group dbr-dog", values={"group": "dbr-dog", "region": REGION})
ROLE = "arn:aws:iam::123456789012:role/dbr-fis"


class Cloud:
    """The launcher, with the answers that its services will give."""

    def __init__(self, stack: ExitStack) -> None:
        self.launcher = AwsLauncher(AwsSettings(region=REGION))
        self.stubs = {
            service: stack.enter_context(Stubber(self.launcher.aws.client(service)))
            for service in ("ec2", "autoscaling", "iam", "fis")
        }

    def has_machines(self, *instances: str) -> None:
        self.answer("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroups": [group(*instances)]})

    def answer(self, service: str, operation: str, answer: dict[str, Any], expected: Any = None) -> None:
        self.stubs[service].add_response(operation, answer, expected)

    def is_spot(self, lifecycle: dict[str, str]) -> None:
        self.answer("ec2", "describe_instances", {"Reservations": [{"Instances": [lifecycle]}]})

    def has_role(self) -> None:
        facts = {"Path": "/", "RoleName": "dbr-fis", "RoleId": "AROA1234567890123456", "Arn": ROLE}
        self.answer("iam", "get_role", {"Role": {**facts, "CreateDate": datetime(2026, 1, 1, tzinfo=UTC)}})

    def rehearse(self, how: Rehearsal, host: str = "ip-10-0-1-23") -> str:
        holder = this_process().model_copy(update={"host": host})
        return self.launcher.rehearse(JOB, how, holder=holder)

    def nothing_is_left_over(self) -> None:
        for stub in self.stubs.values():
            stub.assert_no_pending_responses()


def group(*instances: str) -> dict[str, Any]:
    machine = {
        "AvailabilityZone": f"{REGION}a", "LifecycleState": "InService", "HealthStatus": "Healthy",
        "ProtectedFromScaleIn": False,
    }  # fmt: skip
    return {
        "AutoScalingGroupName": "dbr-dog", "MinSize": 0, "MaxSize": 1, "DesiredCapacity": 1, "DefaultCooldown": 1,
        "AvailabilityZones": [f"{REGION}a"], "HealthCheckType": "EC2", "CreatedTime": datetime(2026, 1, 1, tzinfo=UTC),
        "Instances": [{"InstanceId": one, **machine} for one in instances],
    }  # fmt: skip


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        yield Cloud(stack)


def test_a_notice_is_an_experiment_on_this_machine_alone_and_its_template_is_deleted(cloud: Cloud) -> None:
    cloud.has_machines(INSTANCE)
    cloud.is_spot({"InstanceLifecycle": "spot"})
    cloud.has_role()
    target = {
        "resourceType": "aws:ec2:spot-instance",
        "resourceArns": [f"arn:aws:ec2:{REGION}:123456789012:instance/{INSTANCE}"],
        "selectionMode": "ALL",
    }
    action = {
        "actionId": "aws:ec2:send-spot-instance-interruptions",
        "parameters": {"durationBeforeInterruption": "PT2M"},
        "targets": {"SpotInstances": "machine"},
    }
    expected = {
        "clientToken": ANY, "description": ANY, "roleArn": ROLE, "stopConditions": [{"source": "none"}],
        "targets": {"machine": target}, "actions": {"interrupt": action}, "tags": {"dbr:drill": INSTANCE},
    }  # fmt: skip
    cloud.answer("fis", "create_experiment_template", {"experimentTemplate": {"id": "EXT1"}}, expected)
    asked = {"clientToken": ANY, "experimentTemplateId": "EXT1"}
    cloud.answer("fis", "start_experiment", {"experiment": {"id": "EXP1"}}, asked)
    cloud.answer("fis", "delete_experiment_template", {}, {"id": "EXT1"})
    assert cloud.rehearse("notice") == f"experiment EXP1: {INSTANCE} is told that it goes in two minutes"
    cloud.nothing_is_left_over()


def test_an_experiment_that_is_refused_leaves_no_template(cloud: Cloud) -> None:
    cloud.has_machines(INSTANCE)
    cloud.is_spot({"InstanceLifecycle": "spot"})
    cloud.has_role()
    cloud.answer("fis", "create_experiment_template", {"experimentTemplate": {"id": "EXT1"}})
    cloud.stubs["fis"].add_client_error("start_experiment", "AccessDeniedException", "no", http_status_code=403)
    cloud.answer("fis", "delete_experiment_template", {}, {"id": "EXT1"})
    with pytest.raises(AccessDenied, match="fis:StartExperiment"):
        cloud.rehearse("notice")
    cloud.nothing_is_left_over()


def test_without_the_services_role_it_says_how_to_make_one(cloud: Cloud) -> None:
    cloud.has_machines(INSTANCE)
    cloud.is_spot({"InstanceLifecycle": "spot"})
    cloud.stubs["iam"].add_client_error("get_role", "NoSuchEntity", "no", http_status_code=404)
    with pytest.raises(BadInput, match="no role dbr-fis") as raised:
        cloud.rehearse("notice")
    assert "docs/proof.md" in str(raised.value.fix)


def test_a_machine_on_demand_gets_no_notice(cloud: Cloud) -> None:
    cloud.has_machines(INSTANCE)
    cloud.is_spot({})
    with pytest.raises(BadInput, match="no spot machine"):
        cloud.rehearse("notice")


def test_a_kill_terminates_the_groups_machine(cloud: Cloud) -> None:
    cloud.has_machines(INSTANCE)
    cloud.answer("ec2", "terminate_instances", {}, {"InstanceIds": [INSTANCE]})
    assert cloud.rehearse("kill") == f"{INSTANCE} terminated"
    cloud.nothing_is_left_over()


@pytest.mark.parametrize(
    ("host", "addresses", "found"),
    [
        ("ip-10-0-1-23.eu-central-1.compute.internal", ("10.0.1.24", "10.0.1.23"), OTHER),
        ("ip-10-0-1-23", ("10.0.1.23", "10.0.1.24"), INSTANCE),
        (OTHER, ("10.0.1.23", "10.0.1.24"), OTHER),
    ],
)
def test_of_two_machines_the_one_that_trains_is_taken(
    cloud: Cloud, host: str, addresses: tuple[str, str], found: str
) -> None:
    """While AWS replaces a machine that may go, the next one waits beside it."""
    machines = [
        {"InstanceId": name, "PrivateIpAddress": address, "PrivateDnsName": ""}
        for name, address in zip((INSTANCE, OTHER), addresses, strict=True)
    ]
    cloud.has_machines(INSTANCE, OTHER)
    cloud.answer("ec2", "describe_instances", {"Reservations": [{"Instances": machines}]})
    cloud.answer("ec2", "terminate_instances", {}, {"InstanceIds": [found]})
    assert cloud.rehearse("kill", host) == f"{found} terminated"
    cloud.nothing_is_left_over()


def test_of_two_machines_none_is_taken_where_it_is_not_known_which_trains(cloud: Cloud) -> None:
    cloud.has_machines(INSTANCE, OTHER)
    cloud.answer("ec2", "describe_instances", {"Reservations": [{"Instances": [{"InstanceId": INSTANCE}]}]})
    with pytest.raises(BadInput, match="the group has 2 machines"):
        cloud.rehearse("kill", "trainer")
    cloud.nothing_is_left_over()
