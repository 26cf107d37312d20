"""What AWS refuses and moto does not: answers in AWS's own form, given to the SDK by botocore's Stubber."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack
from dreambooth_resume.launch.aws.asking import Aws
from dreambooth_resume.launch.aws.ending import end_machine
from dreambooth_resume.launch.aws.launcher import AwsLauncher
from dreambooth_resume.launch.aws.lookup import find_subnets
from dreambooth_resume.launch.aws.settings import DEFAULT_AMI_PARAMETER, AwsSettings
from dreambooth_resume.launch.base import Job
from dreambooth_resume.runs.entries import Price
from tests.contracts.launcher_cases import request_for
from tests.fakes.metadata_server import running_metadata
from tests.fakes.s3_server import ENVIRONMENT
from tests.unit.launch.test_aws import PACKAGE

REGION = "eu-central-1"
REQUEST = replace(request_for("s3://bucket/dog"), package=PACKAGE)
ENCODED = (
    "You are not authorized to perform this operation. Encoded authorization failure message: 4GIOHlTkIaWHQD0Q0m6XSnuU"
)
NAMED = (
    "User: arn:aws:iam::123456789012:user/eve is not authorized to perform: autoscaling:CreateAutoScalingGroup on "
    "resource: arn:aws:autoscaling:eu-central-1:123456789012:autoScalingGroup:*:autoScalingGroupName/dbr-dog because "
    "no identity-based policy allows the autoscaling:CreateAutoScalingGroup action"
)
PASS_ROLE = (
    "User: arn:aws:iam::123456789012:user/eve is not authorized to perform: iam:PassRole on resource: "
    "arn:aws:iam::123456789012:role/dbr because no identity-based policy allows the iam:PassRole action"
)

EMPTY_GROUP = {
    "AutoScalingGroupName": REQUEST.name,
    "MinSize": 0,
    "MaxSize": 1,
    "DesiredCapacity": 1,
    "DefaultCooldown": 300,
    "AvailabilityZones": [],
    "HealthCheckType": "EC2",
    "CreatedTime": datetime(2026, 1, 1, tzinfo=UTC),
    "Instances": [],
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


class Stubbed:
    """A launcher whose every request is answered here, in the order in which it makes them; any other fails."""

    def __init__(self, stack: ExitStack, **settings: Any) -> None:
        self.launcher = AwsLauncher(AwsSettings.model_validate({"region": REGION, **settings}))
        self._stubs = {
            service: stack.enter_context(Stubber(self.launcher.aws.client(service)))
            for service in ("ec2", "autoscaling", "iam", "ssm")
        }

    def answer(self, service: str, operation: str, answer: dict[str, Any], expected: Any = None) -> None:
        self._stubs[service].add_response(operation, answer, expected)

    def refuse(self, service: str, operation: str, code: str, said: str = "no", status: int = 403) -> None:
        self._stubs[service].add_client_error(operation, code, said, http_status_code=status)

    def everything_is_found(self) -> None:
        """All that a launch looks up, as AWS gives it."""
        types = [{"InstanceType": "g6.xlarge", "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]}}]
        self.answer("ec2", "describe_instance_types", {"InstanceTypes": types})
        self.answer("ssm", "get_parameter", {"Parameter": {"Value": "ami-12345678"}}, {"Name": DEFAULT_AMI_PARAMETER})
        image = {"ImageId": "ami-12345678", "RootDeviceName": "/dev/sda1", "Architecture": "x86_64"}
        image["BlockDeviceMappings"] = [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 75}}]
        self.answer("ec2", "describe_images", {"Images": [image]}, {"ImageIds": ["ami-12345678"]})
        dates = {"CreateDate": datetime(2026, 1, 1, tzinfo=UTC), "Path": "/"}
        role = {
            "RoleName": "dbr",
            "RoleId": "AROA1234567890123456",
            "Arn": "arn:aws:iam::123456789012:role/dbr",
            **dates,
        }
        profile = {"InstanceProfileName": "dbr", "InstanceProfileId": "AIPA1234567890123456", "Roles": [role], **dates}
        profile["Arn"] = "arn:aws:iam::123456789012:instance-profile/dbr"
        self.answer("iam", "get_instance_profile", {"InstanceProfile": profile})
        self.the_subnets_are_found()

    def the_subnets_are_found(self) -> None:
        """In three zones, of which two offer the types."""
        subnets = [{"SubnetId": f"subnet-{zone}", "AvailabilityZone": f"{REGION}{zone}"} for zone in "abc"]
        self.answer("ec2", "describe_subnets", {"Subnets": subnets})
        offered = [{"InstanceType": "g6.xlarge", "Location": f"{REGION}{zone}"} for zone in "ac"]
        self.answer("ec2", "describe_instance_type_offerings", {"InstanceTypeOfferings": offered})

    def is_done(self) -> None:
        for stub in self._stubs.values():
            stub.assert_no_pending_responses()


@pytest.fixture
def stubbed() -> Iterator[Stubbed]:
    with _stubbed() as made:
        yield made
        made.is_done()


@contextmanager
def _stubbed(**settings: Any) -> Iterator[Stubbed]:
    with ExitStack() as stack:
        yield Stubbed(stack, **settings)


def test_a_launch_that_would_be_allowed_passes_and_stands_where_its_types_are(stubbed: Stubbed) -> None:
    stubbed.everything_is_found()
    stubbed.refuse("ec2", "create_launch_template", "DryRunOperation", status=412)
    stubbed.refuse("ec2", "run_instances", "DryRunOperation", status=412)
    stubbed.launcher.check(REQUEST)
    stubbed.everything_is_found()
    assert '"VPCZoneIdentifier": "subnet-a,subnet-c"' in stubbed.launcher.plan(REQUEST)


def test_a_missing_permission_is_named_before_anything_is_made(stubbed: Stubbed) -> None:
    stubbed.everything_is_found()
    stubbed.refuse("ec2", "create_launch_template", "UnauthorizedOperation", ENCODED)
    with pytest.raises(AccessDenied, match="Missing permission: ec2:CreateLaunchTemplate;"):
        stubbed.launcher.check(REQUEST)


def test_the_permission_that_aws_names_is_the_one_that_counts(stubbed: Stubbed) -> None:
    stubbed.everything_is_found()
    stubbed.refuse("ec2", "create_launch_template", "DryRunOperation", status=412)
    stubbed.refuse("ec2", "run_instances", "UnauthorizedOperation", PASS_ROLE)
    with pytest.raises(AccessDenied, match="Missing permission: iam:PassRole;"):
        stubbed.launcher.check(REQUEST)


@pytest.mark.parametrize(
    ("code", "said", "status", "error", "named"),
    [
        ("AccessDenied", NAMED, 403, AccessDenied, "Missing permission: autoscaling:CreateAutoScalingGroup;"),
        ("ValidationError", "You must use a valid fully-formed launch template.", 400, BadInput, "fully-formed"),
        ("LimitExceeded", "You have reached your limit of groups.", 400, BadInput, "limit of groups"),
    ],
)
def test_a_group_that_is_refused_leaves_no_template(
    stubbed: Stubbed, code: str, said: str, status: int, error: type[Exception], named: str
) -> None:
    stubbed.everything_is_found()
    stubbed.answer("ec2", "create_launch_template", {})
    stubbed.refuse("autoscaling", "create_auto_scaling_group", code, said, status)
    named_so = {"Filters": [{"Name": "launch-template-name", "Values": [REQUEST.name]}]}
    there = {"LaunchTemplates": [{"LaunchTemplateName": REQUEST.name}]}
    stubbed.answer("ec2", "describe_launch_templates", there, named_so)
    stubbed.answer("ec2", "delete_launch_template", {}, {"LaunchTemplateName": REQUEST.name})
    with pytest.raises(error, match=named):
        stubbed.launcher.start(REQUEST)


def test_without_an_answer_the_group_is_removed_too(stubbed: Stubbed) -> None:
    stubbed.everything_is_found()
    stubbed.answer("ec2", "create_launch_template", {})
    stubbed.refuse("autoscaling", "create_auto_scaling_group", "InternalFailure", status=500)
    gone = "AutoScalingGroup name not found - null"
    stubbed.refuse("autoscaling", "delete_auto_scaling_group", "ValidationError", gone, 400)
    stubbed.answer("ec2", "describe_launch_templates", {"LaunchTemplates": []})
    with pytest.raises(ComeBack, match="does not answer autoscaling:CreateAutoScalingGroup"):
        stubbed.launcher.start(REQUEST)


def test_a_group_that_is_there_already_is_ours_if_it_carries_our_launch(stubbed: Stubbed) -> None:
    """The SDK asks again after an answer that was lost."""
    group = {**EMPTY_GROUP, "Tags": [{"Key": "dbr:launch", "Value": REQUEST.launch_id}]}
    stubbed.everything_is_found()
    stubbed.answer("ec2", "create_launch_template", {})
    stubbed.refuse("autoscaling", "create_auto_scaling_group", "AlreadyExists", status=400)
    stubbed.answer("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroups": [group]})
    assert stubbed.launcher.start(REQUEST).values["group"] == REQUEST.name


def test_no_capacity_is_waited_for_and_said(stubbed: Stubbed) -> None:
    said = "Could not launch Spot Instances. InsufficientInstanceCapacity - There is no Spot capacity available."
    activity = {
        "ActivityId": "1", "AutoScalingGroupName": REQUEST.name, "Cause": "a group of one", "StatusCode": "Failed",
        "StartTime": datetime(2026, 1, 1, tzinfo=UTC), "StatusMessage": said,
    }  # fmt: skip
    # In the job's own region, whatever the settings say today.
    job = Job(name="", values={"group": REQUEST.name, "region": REGION})
    stubbed.answer("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroups": [EMPTY_GROUP]})
    stubbed.answer("autoscaling", "describe_scaling_activities", {"Activities": [activity]})
    status = stubbed.launcher.look(job)
    assert status.state == "waiting"
    assert "InsufficientInstanceCapacity" in status.because


def test_the_price_is_that_of_the_dearest_type_in_the_dearest_zone_that_the_group_may_take() -> None:
    def at(hour: int, name: str, zone: str, price: str) -> dict[str, Any]:
        when = datetime(2026, 1, 1, hour, tzinfo=UTC)
        return {"InstanceType": name, "AvailabilityZone": zone, "SpotPrice": price, "Timestamp": when}

    with _stubbed(instance_types="g6.xlarge, g6.2xlarge") as stubbed:
        history = [
            at(9, "g6.xlarge", "a", "0.30"),
            at(8, "g6.xlarge", "a", "0.95"),
            at(9, "g6.xlarge", "c", "0.25"),
            at(9, "g6.2xlarge", "a", "0.40"),
            at(9, "g6.2xlarge", "c", "0.55"),
        ]
        stubbed.the_subnets_are_found()
        expected = {
            "InstanceTypes": ["g6.xlarge", "g6.2xlarge"],
            "ProductDescriptions": ["Linux/UNIX"],
            # A subnet stands in b too, which offers none of the types.
            "Filters": [{"Name": "availability-zone", "Values": [f"{REGION}a", f"{REGION}c"]}],
            "StartTime": ANY,
        }
        stubbed.answer("ec2", "describe_spot_price_history", {"SpotPriceHistory": history}, expected)
        assert stubbed.launcher.price(REQUEST) == Price(per_hour=0.55)
        stubbed.is_done()
    with _stubbed(on_demand=True) as stubbed:
        assert stubbed.launcher.price(REQUEST) is None


@pytest.mark.parametrize(
    ("code", "said"),
    [("ExpiredToken", "aws sso login"), ("InvalidClientTokenId", "AWS_PROFILE"), ("AuthFailure", "AWS_PROFILE")],
)
def test_credentials_that_are_not_known_are_no_missing_permission(stubbed: Stubbed, code: str, said: str) -> None:
    stubbed.refuse("ec2", "describe_instance_types", code)
    with pytest.raises(AccessDenied, match=said):
        stubbed.launcher.check(REQUEST)


def test_a_disk_that_is_smaller_than_the_image_is_refused() -> None:
    with _stubbed(disk_gb=60) as stubbed:
        stubbed.everything_is_found()
        with pytest.raises(BadInput, match="alone takes 75 GB"):
            stubbed.launcher.check(REQUEST)


def test_a_job_is_found_in_its_own_region_without_one_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    launcher = AwsLauncher(AwsSettings())
    with pytest.raises(ComeBack, match="autoscaling:DescribeAutoScalingGroups"):
        launcher.look(Job(name="", values={"group": "dbr-dog", "region": REGION}))


def _ends_by_a_stop(stubbed: Stubbed, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    with running_metadata(clouds=frozenset({"aws"})) as metadata:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        end_machine(stubbed.launcher.aws, REQUEST.launch_id, "stop", is_spot=False, sleep=waits.append)


def test_a_machine_that_has_left_its_group_before_is_stopped(stubbed: Stubbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A supervisor that died between the requests, and the next one."""
    gone = f"The instance i-0123456789abcdef0 is not part of Auto Scaling group {REQUEST.name}."
    stubbed.answer("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroups": [EMPTY_GROUP]})
    stubbed.refuse("autoscaling", "detach_instances", "ValidationError", gone, 400)
    stubbed.answer("autoscaling", "update_auto_scaling_group", {})
    stubbed.answer("ec2", "stop_instances", {}, {"InstanceIds": ["i-0123456789abcdef0"]})
    _ends_by_a_stop(stubbed, monkeypatch, [])


def test_a_machine_is_stopped_whatever_becomes_of_its_group(stubbed: Stubbed, monkeypatch: pytest.MonkeyPatch) -> None:
    stubbed.answer("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroups": [EMPTY_GROUP]})
    stubbed.answer("autoscaling", "detach_instances", {"Activities": []})
    stubbed.refuse("autoscaling", "update_auto_scaling_group", "AccessDenied")
    for _ in range(2):
        stubbed.refuse("ec2", "stop_instances", "InternalError", status=500)
    stubbed.answer("ec2", "stop_instances", {})
    waits: list[float] = []
    _ends_by_a_stop(stubbed, monkeypatch, waits)
    assert waits == [2.0, 5.0]


def test_a_machine_whose_group_is_gone_is_stopped(stubbed: Stubbed, monkeypatch: pytest.MonkeyPatch) -> None:
    stubbed.answer("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroups": []})
    stubbed.answer("ec2", "stop_instances", {})
    _ends_by_a_stop(stubbed, monkeypatch, [])


def test_a_group_is_set_to_0_by_a_later_try_and_without_end_by_none(stubbed: Stubbed) -> None:
    waits: list[float] = []

    def ends() -> None:
        end_machine(stubbed.launcher.aws, REQUEST.launch_id, "terminate", is_spot=True, sleep=waits.append)

    stubbed.refuse("autoscaling", "describe_auto_scaling_groups", "Throttling", status=400)
    stubbed.answer("autoscaling", "describe_auto_scaling_groups", {"AutoScalingGroups": [EMPTY_GROUP]})
    stubbed.answer("autoscaling", "update_auto_scaling_group", {})
    ends()
    assert waits == [2.0]
    for _ in range(6):
        stubbed.refuse("autoscaling", "describe_auto_scaling_groups", "Throttling", status=400)
    with pytest.raises(ComeBack):
        ends()


def test_no_default_vpc_is_said(stubbed: Stubbed) -> None:
    stubbed.answer("ec2", "describe_subnets", {"Subnets": []})
    with pytest.raises(BadInput, match="no default VPC in eu-central-1"):
        find_subnets(stubbed.launcher.aws, AwsSettings(), ("g6.xlarge",))


def test_no_region_and_no_credentials_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(BadInput, match="no region is named"):
        _ = Aws(None).region
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDenied, match="no complete credentials"):
        Aws(REGION).ask("ec2", "describe_images", {})


def test_an_answer_that_never_comes_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ComeBack, match="AWS does not answer ec2:DescribeImages"):
        Aws(REGION).ask("ec2", "describe_images", {})
