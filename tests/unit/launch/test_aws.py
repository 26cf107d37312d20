"""The aws launcher against an account of moto: what is sent, an interruption, the end, and what is refused before."""

from __future__ import annotations

import ast
import base64
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.errors import BadInput, ComeBack
from dreambooth_resume.launch.aws.launcher import AwsLauncher
from dreambooth_resume.launch.aws.settings import AwsSettings
from dreambooth_resume.launch.base import LaunchRequest, Package
from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from tests.contracts.launcher_cases import request_for
from tests.fakes.aws_account import REGION, Account, account
from tests.fakes.metadata_server import running_metadata

ROOT = Path(__file__).parents[3]
MOST_USER_DATA_BYTES = 16 * 1024
PACKAGE = Package(
    wheel_key=f"packages/{'a' * 64}/dreambooth_resume-0.1.0-py3-none-any.whl",
    wheel_sha256="a" * 64,
    constraints_key=f"packages/{'b' * 64}/constraints.txt",
    constraints_sha256="b" * 64,
    extras=("prodigy", "tensorboard"),
)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Account:
    return account(monkeypatch)


@pytest.fixture
def request_to_dog() -> LaunchRequest:
    return replace(request_for("s3://bucket/it's dog"), package=PACKAGE)


def launcher(aws: Account, **settings: object) -> AwsLauncher:
    return AwsLauncher(AwsSettings.model_validate({"ami": aws.image, "region": REGION, **settings}))


def test_the_machine_is_made_as_it_should_be(aws: Account, request_to_dog: LaunchRequest) -> None:
    started = launcher(aws, disk_gb=77)
    job = started.start(request_to_dog)
    name = job.values["group"]
    [version] = aws.client("ec2").describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]
    data = version["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["IamInstanceProfile"] == {"Name": "dbr"}
    [disk] = data["BlockDeviceMappings"]
    assert (disk["Ebs"]["VolumeType"], disk["Ebs"]["VolumeSize"], disk["Ebs"]["Encrypted"]) == ("gp3", 77, True)
    assert {"instance", "volume"} <= {one["ResourceType"] for one in data["TagSpecifications"]}
    group = aws.group(name)
    assert group is not None
    assert (group["MinSize"], group["MaxSize"], group["DesiredCapacity"]) == (0, 1, 1)
    assert group["CapacityRebalance"] is True
    assert len(group["VPCZoneIdentifier"].split(",")) > 1, "all zones"
    policy = group["MixedInstancesPolicy"]
    assert policy["LaunchTemplate"]["Overrides"][0]["InstanceType"] == "g6.xlarge"
    assert policy["InstancesDistribution"]["SpotAllocationStrategy"] == "price-capacity-optimized"
    assert policy["InstancesDistribution"]["OnDemandPercentageAboveBaseCapacity"] == 0
    [instance] = aws.instances([{"Name": "tag:dbr:launch", "Values": [request_to_dog.launch_id]}])
    assert {"Key": "dbr:home", "Value": request_to_dog.home} in instance["Tags"]
    started.release(job)


def test_user_data_is_the_script_with_its_settings_and_small_enough(
    aws: Account, request_to_dog: LaunchRequest
) -> None:
    started = launcher(aws, hf_token_parameter="/dbr/hf-token")
    job = started.start(request_to_dog)
    asked = {"LaunchTemplateName": job.values["group"]}
    [version] = aws.client("ec2").describe_launch_template_versions(**asked)["LaunchTemplateVersions"]
    started.release(job)
    text = base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()
    # A home's address may be longer than this one.
    assert len(text.encode()) < MOST_USER_DATA_BYTES - 1024
    script = (ROOT / "infra" / "startup.sh").read_text()
    assert text.startswith("#!/usr/bin/env bash\nexport ")
    code = [line for line in script.splitlines() if line.strip()[:1] != "#"]
    assert text.splitlines()[-len(code) :] == code
    settings, _, _ = text.partition("set -euo pipefail")
    show = 'eval "set -- $DBR_WORDS"; printf "%s|" "$@" "$DBR_HOME" "$DBR_EXTRAS" "$DBR_GROUP"'
    done = subprocess.run(["bash", "-c", settings + show], capture_output=True, text=True, check=True, timeout=20)
    shown = done.stdout.split("|")
    told = [request_to_dog.home, "prodigy,tensorboard", request_to_dog.name, ""]
    assert shown == [*request_to_dog.command, "--spot", "aws", *told], "and the machine knows where it is"


def test_what_is_shown_is_what_is_sent(aws: Account, request_to_dog: LaunchRequest) -> None:
    one = launcher(aws)
    shown = one.plan(request_to_dog)
    job = one.start(request_to_dog)
    asked = {"LaunchTemplateName": job.values["group"]}
    [version] = aws.client("ec2").describe_launch_template_versions(**asked)["LaunchTemplateVersions"]
    one.release(job)
    sent = version["LaunchTemplateData"]
    # moto puts the template's own tags among those of what is made from it.
    sent["TagSpecifications"] = [one for one in sent["TagSpecifications"] if one["ResourceType"] != "launch-template"]
    assert base64.b64decode(sent.pop("UserData")).decode() == shown.partition("# the user data\n")[2]
    head, _, rest = shown.partition("\n")
    template, end = json.JSONDecoder().raw_decode(rest)
    assert head == f"# ec2:CreateLaunchTemplate, in {REGION}"
    assert {name: template["LaunchTemplateData"][name] for name in sent} == sent
    assert "# autoscaling:CreateAutoScalingGroup" in rest[end:]


def test_a_machine_that_is_taken_away_is_replaced_and_the_end_is_the_end(
    aws: Account, request_to_dog: LaunchRequest
) -> None:
    one, ec2 = launcher(aws), aws.client("ec2")
    tag = [{"Name": "tag:dbr:launch", "Values": [request_to_dog.launch_id]}]
    job = one.start(request_to_dog)
    assert one.look(job).state == "running"
    [first] = aws.instances(tag)
    ec2.terminate_instances(InstanceIds=[first["InstanceId"]])
    aws.group(job.values["group"])
    [second] = aws.instances(tag)
    assert second["InstanceId"] != first["InstanceId"]
    assert second["InstanceId"] in one.look(job).because

    # On the machine, which knows its launch and no more.
    launcher(aws).end_machine(request_to_dog.launch_id, "terminate")
    group = aws.group(job.values["group"])
    assert group is not None
    assert (group["DesiredCapacity"], group["MaxSize"]) == (0, 0)
    assert aws.instances(tag) == []
    assert one.look(job).state == "ended"

    assert {left.kind for left in one.leftovers() if left.name == request_to_dog.name} == {"group", "launch template"}
    one.release(job)
    assert request_to_dog.name not in "".join(aws.tagged())
    assert one.look(job).state == "ended"


def test_a_machine_that_is_to_be_kept_has_no_successor(aws: Account, request_to_dog: LaunchRequest) -> None:
    one = launcher(aws)
    job = one.start(request_to_dog)
    one.end_machine(request_to_dog.launch_id, "keep")
    group = aws.group(job.values["group"])
    assert group is not None
    assert [process["ProcessName"] for process in group["SuspendedProcesses"]] == ["Launch"]
    assert len(group["Instances"]) == 1
    one.release(job)


def test_a_machine_that_left_its_group_and_was_not_stopped_is_ended_by_a_release(
    aws: Account, request_to_dog: LaunchRequest
) -> None:
    one = launcher(aws, on_demand=True)
    job = one.start(request_to_dog)
    tag = [{"Name": "tag:dbr:launch", "Values": [request_to_dog.launch_id]}]
    [machine] = aws.instances(tag)
    aws.client("autoscaling").detach_instances(
        AutoScalingGroupName=job.values["group"],
        InstanceIds=[machine["InstanceId"]],
        ShouldDecrementDesiredCapacity=True,
    )
    one.release(job)
    assert aws.instances(tag) == []


def test_a_machine_on_demand_can_be_stopped(
    aws: Account, request_to_dog: LaunchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = launcher(aws, on_demand=True)
    job = one.start(request_to_dog)
    [machine] = aws.instances([{"Name": "tag:dbr:launch", "Values": [request_to_dog.launch_id]}])
    with running_metadata(clouds=frozenset({"aws"}), instance_id=machine["InstanceId"]) as metadata:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        one.end_machine(request_to_dog.launch_id, "stop")
    [machine] = aws.instances([{"Name": "instance-id", "Values": [machine["InstanceId"]]}])
    assert machine["State"]["Name"] in ("stopping", "stopped")
    group = aws.group(job.values["group"])
    assert group is not None
    assert group["DesiredCapacity"] == 0
    one.release(job)
    # It is nobody's now but the user's, and is shown.
    [left] = [left for left in one.leftovers() if left.name == machine["InstanceId"]]
    assert (left.kind, left.is_in_use, left.home) == ("machine", False, request_to_dog.home)
    one.remove(left)
    assert not [left for left in one.leftovers() if left.name == machine["InstanceId"]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"instance_types": "g6.xlarge,g99.huge"}, "g99.huge"),
        ({"instance_profile": "nobody"}, "no instance profile nobody"),
        ({"ami": "ami-0123456789abcdef0"}, "no image ami-0123456789abcdef0"),
        ({"ami": None}, "AWS's own image for GPUs is not there"),
        ({"subnets": "subnet-12345678"}, "subnet-12345678"),
        ({"instance_types": "m7g.large"}, "another processor"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_is_made(
    aws: Account, request_to_dog: LaunchRequest, settings: dict[str, object], said: str
) -> None:
    before = aws.tagged()
    with pytest.raises(BadInput, match=said):
        launcher(aws, **settings).check(request_to_dog)
    assert aws.tagged() == before


def test_a_home_of_another_service_is_refused(aws: Account, request_to_dog: LaunchRequest) -> None:
    elsewhere = replace(request_to_dog, s3=S3Settings(endpoint_url="http://127.0.0.1:9000"))
    with pytest.raises(BadInput, match="no service of AWS"):
        launcher(aws).check(elsewhere)


def test_clean_up_shows_first_and_removes_only_what_nobody_uses(
    aws: Account, request_to_dog: LaunchRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = launcher(aws), replace(request_for("s3://bucket/cat"), package=PACKAGE)
    one.start(request_to_dog)
    in_use = one.start(other)
    one.end_machine(request_to_dog.launch_id, "terminate")
    words = ["launch", "aws", "--clean-up", "--region", REGION]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "left over" in shown
    assert "in use; to end it: dbr stop s3://bucket/cat" in shown
    assert request_to_dog.name in "".join(aws.tagged()), "nothing was removed without --yes"
    assert main([*words, "--yes"]) == 0
    assert request_to_dog.name not in "".join(aws.tagged())
    assert f"group {other.name}" in aws.tagged()
    one.release(in_use)


def test_a_launcher_that_leaves_nothing_has_nothing_to_clean_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "local", "--clean-up"]) == BadInput.exit_code
    assert "nothing that could be left over" in capsys.readouterr().err


def _allowed(*names: str) -> set[str]:
    found: set[str] = set()
    for name in names:
        for statement in json.loads((ROOT / "infra" / name).read_text())["Statement"]:
            action = statement["Action"]
            found |= {action} if isinstance(action, str) else set(action)
    return found


def test_the_policies_allow_what_is_asked_and_little_more() -> None:
    asked: set[str] = set()
    for path in (ROOT / "dreambooth_resume" / "launch" / "aws").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) > 2:
                words = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
                if node.func.attr in ("ask", "may", "pages") and len(words) == 2:
                    asked.add(f"{words[0]}:{''.join(part.capitalize() for part in str(words[1]).split('_'))}")
    assert len(asked) >= 15
    allowed = _allowed("aws-launcher-policy.json", "aws-machine-policy.json")
    assert asked <= allowed
    # What AWS asks for on top of the calls themselves.
    on_top = {"autoscaling:CreateOrUpdateTags", "ec2:CreateTags", "fis:TagResource", "iam:PassRole"}
    # An account's first group, and its first experiment, make the role of their service.
    assert allowed - asked == {*on_top, "iam:CreateServiceLinkedRole"}


def _words(folder: Path, uri: str) -> list[str]:
    draw_pictures(folder)
    options = {
        "pretrained_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0",
        "instance_data_dir": folder,
        "instance_prompt": "a photo of sks robot",
        "storage_uri": uri,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def test_launched_and_stopped_by_command(
    aws: Account, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A service that the environment names is handed on to the machine, and refused for one of AWS: so the SDK alone
    # knows of the account's server.
    (tmp_path / "aws").write_text(f"[default]\nendpoint_url = {aws.server.url}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    uri = aws.server.new_home()
    words = [
        "launch",
        "aws",
        "--ami",
        aws.image,
        "--region",
        REGION,
        "--spot",
        "aws",
        *_words(tmp_path / "pictures", uri),
    ]
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    storage = S3Storage(uri, S3Settings())
    assert not list(storage.list("notes/")), "a dry run leaves nothing"
    assert main(words) == 0
    said = capsys.readouterr().out
    [name] = re.findall(r"Launched on aws: group (\S+) in us-east-1", said)
    [version] = aws.client("ec2").describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]
    script = base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()
    [wheel] = [key for key in (found.key for found in storage.list("packages/")) if key.endswith(".whl")]
    assert f"DBR_WHEEL={wheel}\n" in script
    assert f"DBR_WHEEL={wheel}\n" in shown
    assert "--price_per_hour 1e-05" in script, "what the API says"
    # A second one of the same home would only wait for the first.
    assert main(words) == ComeBack.exit_code
    assert "was launched already (aws" in capsys.readouterr().err
    assert main(["stop", uri]) == 0
    assert name not in "".join(aws.tagged())


def test_a_folder_is_no_home_for_a_machine_of_aws(
    aws: Account, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = aws.tagged()
    words = _words(tmp_path / "pictures", str(tmp_path / "home"))
    words[words.index("--storage_uri")] = "--output_dir"
    assert main(["launch", "aws", "--ami", aws.image, *words]) == BadInput.exit_code
    assert "is a folder of this machine" in capsys.readouterr().err
    assert aws.tagged() == before
    assert not (tmp_path / "home").exists()
