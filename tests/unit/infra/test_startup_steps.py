"""The steps of infra/startup.sh one by one, with programs of our own in place of those that need root or a network."""

from __future__ import annotations

import configparser
import hashlib
import os
import stat
import subprocess
import sys
import urllib.parse
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.errors import BadInput, ComeBack
from dreambooth_resume.runs.home import OUTPUT_PREFIX, output_key
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from tests.fakes.metadata_server import running_metadata
from tests.fakes.s3_server import ENVIRONMENT, S3Server, shared_server
from tests.fakes.signed_service import KEYS, running_signed_service

ROOT = Path(__file__).parents[3]
CANARY = "hf_canary-that-nobody-may-see"
NOTIFY_CANARY = "https://hooks.example/canary-of-a-hook"
PROXY_CANARY = "http://user:canary-of-a-proxy@127.0.0.1:9"


@dataclass(slots=True)
class Sandbox:
    """A machine's folders, and the programs that the script finds there: each notes how it was called."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "opt"

    def program(self, name: str, body: str = "exit 0", *, where: Path | None = None) -> None:
        path = (where or self.folder / "bin") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self.folder}/calls"\n{body}\n')
        path.chmod(0o755)

    def environment_is_there(self, pip: str = "exit 0") -> None:
        """A Python environment that was made before, with a pip that does as told and a dbr that shows itself."""
        (self.root / "venv").mkdir(parents=True, exist_ok=True)
        (self.root / "venv" / ".made").touch()
        body = f'case "$1 $2" in "-m pip") {pip};; "-m dreambooth_resume") exec env;; esac\nexec {sys.executable} "$@"'
        self.program("python", body, where=self.root / "venv" / "bin")

    def environment(self, **told: str) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DBR_", "HF_TOKEN"))},
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DBR_ROOT": str(self.root),
            "DBR_HOME": "s3://bucket/dog",
            "DBR_WAITS": "0",
            "DBR_DISKS": "/nowhere/no-disk-*",
            "DBR_SERVICE": "foreground",
            **told,
        }

    def run(self, *words: str, **told: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment(**told)
        script = ["bash", str(ROOT / "infra" / "startup.sh"), *words]
        return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def calls(self, program: str) -> list[str]:
        text = (self.folder / "calls").read_text() if (self.folder / "calls").exists() else ""
        return [line for line in text.splitlines() if line.split()[0] == program]


@dataclass(frozen=True, slots=True)
class Group:
    """An Auto Scaling group of moto's account."""

    name: str
    scaling: Any

    def sizes(self) -> tuple[int, int]:
        """How many machines it wants, and how many it takes at most."""
        asked = {"AutoScalingGroupNames": [self.name]}
        [there] = self.scaling.describe_auto_scaling_groups(**asked)["AutoScalingGroups"]
        return there["DesiredCapacity"], there["MaxSize"]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    made = Sandbox(tmp_path)
    made.environment_is_there()
    return made


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", shared_server().url)
    return shared_server()


@pytest.mark.parametrize(("found", "formats"), [(2, 1), (0, 0)], ids=["empty", "holds something"])
def test_only_an_empty_disk_is_made_anew(sandbox: Sandbox, found: int, formats: int) -> None:
    disk = sandbox.folder / "nvme0"
    disk.touch()
    sandbox.program("mountpoint", "exit 1")
    sandbox.program("blkid", f"exit {found}")
    sandbox.program("mkfs.ext4")
    sandbox.program("mount")
    done = sandbox.run("prepare", DBR_DISKS=str(disk), DBR_MOUNT=str(sandbox.folder / "mnt"))
    assert done.returncode == 0, done.stderr
    assert len(sandbox.calls("mkfs.ext4")) == formats
    assert sandbox.calls("mount") == [f"mount -o noatime {disk} {sandbox.folder}/mnt"]
    assert (sandbox.root / "stage-folder").read_text().strip() == f"{sandbox.folder}/mnt/stage"


def test_a_disk_that_is_mounted_is_left_alone(sandbox: Sandbox) -> None:
    disk = sandbox.folder / "nvme0"
    disk.touch()
    sandbox.program("mountpoint", '[ "$2" != /opt/dlami/nvme ]')
    sandbox.program("mkfs.ext4")
    sandbox.program("mount")
    done = sandbox.run("prepare", DBR_DISKS=str(disk), DBR_MOUNT=str(sandbox.folder / "mnt"))
    assert done.returncode == 0, done.stderr
    assert not sandbox.calls("mkfs.ext4")
    assert not sandbox.calls("mount")


def test_without_a_fast_disk_the_stage_is_beside_the_rest(sandbox: Sandbox) -> None:
    assert sandbox.run("prepare").returncode == 0
    assert (sandbox.root / "stage-folder").read_text().strip() == str(sandbox.root / "stage")
    assert (sandbox.root / "stage").is_dir()


def _wheel(storage: Storage, told: dict[str, str]) -> Mapping[str, str]:
    """A wheel and constraints in the home, and what a launch says of them; `told` holds where it says otherwise."""
    for name in ("dbr.whl", "constraints.txt"):
        storage.write(f"packages/{name}", [name.encode()])
    return {
        "DBR_HOME": storage.describe(),
        "DBR_WHEEL": "packages/dbr.whl",
        "DBR_WHEEL_SHA256": hashlib.sha256(b"dbr.whl").hexdigest(),
        "DBR_CONSTRAINTS": "packages/constraints.txt",
        "DBR_CONSTRAINTS_SHA256": hashlib.sha256(b"constraints.txt").hexdigest(),
        **told,
    }


@pytest.fixture
def group(server: S3Server) -> Group:
    """An Auto Scaling group that wants a machine."""
    import boto3

    name, scaling = f"dbr-{uuid.uuid4().hex[:8]}", boto3.client("autoscaling")
    boto3.client("ec2").create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": "ami-1"})
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchTemplate={"LaunchTemplateName": name},
        MinSize=0,
        MaxSize=1,
        DesiredCapacity=1,
        AvailabilityZones=["us-east-1a"],
    )
    return Group(name, scaling)


def test_a_package_that_was_swapped_is_not_installed_and_the_group_goes_to_0(
    sandbox: Sandbox, server: S3Server, group: Group
) -> None:
    storage = S3Storage(server.new_home(), S3Settings())
    done = sandbox.run(**_wheel(storage, {"DBR_GROUP": group.name, "DBR_WHEEL_SHA256": "0" * 64}))
    assert done.returncode == ComeBack.exit_code
    assert "is not what was launched (SHA-256 differs)" in done.stderr
    assert [call for call in sandbox.calls("python") if "pip" in call and "dbr.whl" in call] == []
    assert group.sizes() == (0, 0)
    # The reason is where `dbr logs` looks.
    [output] = storage.list(OUTPUT_PREFIX)
    assert output.key == output_key(output.key.split("/")[1], 1)
    told = storage.read(output.key).decode()
    assert "SHA-256 differs" in told
    assert told.endswith("This machine can't be prepared.\n")


def test_a_machine_on_which_no_python_can_be_made_gives_itself_back_by_curl(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.program("no-python", "exit 1")
    sandbox.program("aws", "exit 1")
    with (
        running_metadata(clouds=frozenset({"aws"}), role_keys=KEYS) as metadata,
        running_signed_service() as service,
    ):
        done = sandbox.run(
            DBR_PYTHON=str(tmp_path / "bin" / "no-python"),
            DBR_GROUP="dbr-dog-1f",
            AWS_DEFAULT_REGION="eu-central-1",
            AWS_ENDPOINT_URL=service.url,
            AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata.url,
            NO_PROXY="127.0.0.1",
        )
    assert done.returncode == ComeBack.exit_code
    assert service.refused == [], done.stderr
    [(told, where, output), (asked, _, body)] = service.asked
    assert (told, asked) == ("s3", "autoscaling")
    assert where.startswith(f"PUT /bucket/dog/{OUTPUT_PREFIX}")
    assert output.decode().endswith("This machine can't be prepared.\n")
    assert dict(urllib.parse.parse_qsl(body.decode())) == {
        "Action": "UpdateAutoScalingGroup", "Version": "2011-01-01", "AutoScalingGroupName": "dbr-dog-1f",
        "MinSize": "0", "MaxSize": "0", "DesiredCapacity": "0",
    }  # fmt: skip


def test_without_python_the_program_aws_is_asked_first(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.program("no-python", "exit 1")
    sandbox.program("aws")
    told = {"DBR_PYTHON": str(tmp_path / "bin" / "no-python"), "DBR_GROUP": "dbr-dog-1f"}
    assert sandbox.run(**told).returncode == ComeBack.exit_code
    [copied, zeroed] = sandbox.calls("aws")
    assert copied.startswith("aws s3 cp --quiet ")
    assert f" s3://bucket/dog/{OUTPUT_PREFIX}" in copied
    assert zeroed == (
        "aws autoscaling update-auto-scaling-group --auto-scaling-group-name dbr-dog-1f "
        "--min-size 0 --max-size 0 --desired-capacity 0"
    )


def test_a_machine_that_nobody_lets_give_itself_back_says_what_remains(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    for name in ("no-python", "aws", "curl"):
        sandbox.program(name, "exit 1")
    done = sandbox.run(DBR_PYTHON=str(tmp_path / "bin" / "no-python"), DBR_GROUP="dbr-dog-1f", DBR_WAITS="0 0")
    assert done.returncode == ComeBack.exit_code
    assert done.stderr.count("Setting the group dbr-dog-1f to 0 failed. Trying again in 0 s.") == 2
    assert done.stderr.endswith("It is paid for until you type: dbr stop s3://bucket/dog\n")


@pytest.mark.parametrize(("status", "sizes"), [("77", (0, 0)), ("75", (1, 1)), ("TERM", (1, 1))])
def test_after_an_end_that_nobody_restarts_the_machine_is_given_back(
    sandbox: Sandbox, group: Group, status: str, sizes: tuple[int, int]
) -> None:
    how = "exited" if status.isdecimal() else "killed"
    done = sandbox.run("ended", DBR_GROUP=group.name, EXIT_CODE=how, EXIT_STATUS=status)
    assert done.returncode == 0, done.stderr
    assert group.sizes() == sizes


def test_a_machine_that_is_to_be_kept_is_kept(sandbox: Sandbox, group: Group) -> None:
    group.scaling.suspend_processes(AutoScalingGroupName=group.name, ScalingProcesses=["Launch"])
    assert sandbox.run("ended", DBR_GROUP=group.name, EXIT_CODE="exited", EXIT_STATUS="78").returncode == 0
    assert group.sizes() == (1, 1)


def test_starts_that_always_end_alike_are_made_no_more(sandbox: Sandbox, server: S3Server, group: Group) -> None:
    storage = S3Storage(server.new_home(), S3Settings())
    told = {"DBR_HOME": storage.describe(), "DBR_GROUP": group.name, "DBR_FAILED_STARTS": "3"}

    def ends(how: str, status: str) -> int:
        sandbox.run("ended", **told, EXIT_CODE=how, EXIT_STATUS=status)
        return group.sizes()[0]

    assert sandbox.run("prepare", **told).returncode == 0
    assert [ends("exited", "1"), ends("exited", "70")] == [1, 1]
    # Coming back is no failure, and neither is a start that had half an hour: they begin the row anew.
    assert [ends("exited", "75"), ends("exited", "70"), ends("killed", "SEGV")] == [1, 1, 1]
    (sandbox.root / "stage" / "started").write_text("-3600")
    assert [ends("exited", "70"), ends("exited", "70")] == [1, 1]
    assert ends("exited", "1") == 0
    [output] = storage.list(OUTPUT_PREFIX)
    assert b"3 starts in a row ended like this one (exited 1): no more are made." in storage.read(output.key)


def test_after_an_end_it_stops_trying_before_the_service_would_end_it(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    for name in ("aws", "curl"):
        sandbox.program(name, "exit 1")
    sandbox.program("sleep")
    done = sandbox.run("ended", DBR_GROUP="dbr-dog-1f", DBR_WAITS="", EXIT_CODE="exited", EXIT_STATUS="78")
    assert done.stderr.endswith("It is paid for until you type: dbr stop s3://bucket/dog\n")
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(ROOT / "infra" / "dbr.service")
    waits = [int(call.split()[1]) for call in sandbox.calls("sleep")]
    assert 0 < sum(waits) < int(unit["Service"]["TimeoutStopSec"]) / 2


def test_where_a_failed_start_cannot_be_counted_it_was_the_last(sandbox: Sandbox, group: Group) -> None:
    assert sandbox.run("prepare").returncode == 0
    (sandbox.root / "stage" / "failed-starts").mkdir()
    sandbox.run("ended", DBR_GROUP=group.name, EXIT_CODE="exited", EXIT_STATUS="70")
    assert group.sizes() == (0, 0)


def test_a_token_that_cannot_be_read_ends_the_machine(sandbox: Sandbox, server: S3Server, group: Group) -> None:
    storage = S3Storage(server.new_home(), S3Settings())
    told = {"DBR_GROUP": group.name, "DBR_HOME": storage.describe(), "DBR_HF_TOKEN_PARAMETER": "/dbr/no-such"}
    assert sandbox.run(**told).returncode == ComeBack.exit_code
    assert group.sizes() == (0, 0)
    [output] = storage.list(OUTPUT_PREFIX)
    assert b"The parameter /dbr/no-such can't be read." in storage.read(output.key)


def test_a_service_that_cannot_be_set_up_ends_the_machine(sandbox: Sandbox, server: S3Server, group: Group) -> None:
    for name in ("systemctl", "chown"):
        sandbox.program(name)
    sandbox.program("id", "exit 1")
    sandbox.program("useradd", "exit 1")
    told = {"DBR_SERVICE": "systemd", "DBR_UNITS": str(sandbox.folder), "DBR_HOME": server.new_home()}
    assert sandbox.run(**told, DBR_GROUP=group.name).returncode == ComeBack.exit_code
    assert group.sizes() == (0, 0)
    assert not sandbox.calls("systemctl")


def test_pip_is_asked_again_and_a_second_run_asks_nobody(sandbox: Sandbox, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    sandbox.environment_is_there(pip=f'echo x >> "{tries}"; [ "$(wc -l < "{tries}")" -gt 2 ]; exit $?')
    storage = LocalStorage(tmp_path / "home")
    told = _wheel(storage, {})
    done = sandbox.run("prepare", **told, DBR_WAITS="0 0 0")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Installing torch failed. Trying again in 0 s.") == 2
    asked = len(sandbox.calls("python"))
    assert sandbox.run("prepare", **told).returncode == 0
    assert len(sandbox.calls("python")) == asked


def test_the_token_comes_from_the_parameter_store_and_stays_in_memory(sandbox: Sandbox, server: S3Server) -> None:
    import boto3

    boto3.client("ssm").put_parameter(Name="/dbr/hf-token", Value=CANARY, Type="SecureString", Overwrite=True)
    done = sandbox.run(DBR_HF_TOKEN_PARAMETER="/dbr/hf-token")
    assert done.returncode == 0, done.stderr
    assert f"HF_TOKEN={CANARY}" in done.stdout.splitlines()
    assert not [path for path in sandbox.root.rglob("*") if path.is_file() and CANARY in path.read_text()]


def test_systemd_is_handed_the_unit_and_settings_without_a_secret(sandbox: Sandbox) -> None:
    for name in ("systemctl", "useradd", "chown", "chgrp"):
        sandbox.program(name)
    sandbox.program("id", '[ "$1" = -gn ] && echo service')
    words = "supervise 's3://bucket/dog'\\''s }' --launch 1f"
    told = {
        "DBR_SERVICE": "systemd",
        "DBR_UNITS": str(sandbox.folder),
        "DBR_WORDS": words,
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "DBR_NOTIFY": NOTIFY_CANARY,
        "HTTPS_PROXY": PROXY_CANARY,
    }
    # As a run of the script that was killed may have left it.
    sandbox.root.mkdir(exist_ok=True)
    (sandbox.root / "settings.new").touch(mode=0o644)
    for _ in range(2):
        done = sandbox.run(**told)
        assert done.returncode == 0, done.stderr
    verbs = [call.removeprefix("systemctl ") for call in sandbox.calls("systemctl")]
    assert verbs == ["daemon-reload", "enable dbr.service", "start --no-block dbr.service"] * 2
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(sandbox.folder / "dbr.service")
    assert unit["Service"]["ExecStart"] == f"{sandbox.root}/startup.sh train"
    assert os.access(sandbox.root / "startup.sh", os.X_OK)
    assert CANARY not in (sandbox.root / "settings").read_text()
    # What is secret in there reaches the service, and nobody else on the machine.
    assert sandbox.calls("chgrp") == [f"chgrp service {sandbox.root}/settings.new"] * 2
    for path in (path for path in sandbox.folder.rglob("*") if path.is_file()):
        if any(canary in path.read_text() for canary in (NOTIFY_CANARY, PROXY_CANARY)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o640, path
    # The service knows nothing but what lies there.
    script = f'. "{sandbox.root}/settings"; printf %s "$DBR_WORDS $AWS_DEFAULT_REGION"'
    read = subprocess.run(["bash", "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert read.stdout == f"{words} eu-central-1"


def test_a_preparation_that_ends_as_nobody_thought_of_gives_the_machine_back(
    sandbox: Sandbox, server: S3Server, group: Group
) -> None:
    sandbox.environment_is_there()
    sandbox.program("mkdir", "exit 1")  # a disk that is full, or was mounted to be read only
    done = sandbox.run(DBR_HOME=server.new_home(), DBR_GROUP=group.name)
    assert done.returncode == 75, done.stderr
    assert group.sizes() == (0, 0)


def test_by_hand_without_a_package_it_says_what_to_install(sandbox: Sandbox) -> None:
    sandbox.environment_is_there()
    sandbox.program("python", "exit 1", where=sandbox.root / "venv" / "bin")
    assert sandbox.run("prepare").returncode == 0
    done = sandbox.run()
    assert done.returncode == 2
    assert "dbr is not installed: name its wheel in the home (DBR_WHEEL), or " in done.stderr


def test_the_services_output_is_a_file_from_which_the_supervisor_copies(sandbox: Sandbox) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(ROOT / "infra" / "dbr.service")
    how, _, file = unit["Service"]["StandardOutput"].partition(":")
    assert (how, unit["Service"]["StandardError"]) == ("append", "inherit")
    assert sandbox.run("prepare").returncode == 0
    output = sandbox.root / Path(file).name
    look = "from dreambooth_resume.cli.supervise import _output_file as found; print(found())"
    sandbox.program("python", f"exec {sys.executable} -c '{look}'", where=sandbox.root / "venv" / "bin")
    with output.open("a") as opened:
        subprocess.run(
            ["bash", str(ROOT / "infra" / "startup.sh"), "train"],
            env=sandbox.environment(), stdout=opened, stderr=subprocess.STDOUT, timeout=60, check=True,
        )  # fmt: skip
    assert output.read_text() == f"{output}\n"


def test_words_reach_the_program_as_they_were_quoted(sandbox: Sandbox) -> None:
    sandbox.run("prepare")
    done = sandbox.run("train", DBR_WORDS="supervise 's3://bucket/a dog' --launch 1f")
    assert done.returncode == 0, done.stderr
    [call] = [call for call in sandbox.calls("python") if "supervise" in call]
    assert call.endswith(
        f"-m dreambooth_resume supervise s3://bucket/a dog --launch 1f --stage_dir {sandbox.root}/stage/run"
    )


def test_a_word_that_is_no_step_is_refused(sandbox: Sandbox) -> None:
    assert sandbox.run("trian").returncode == BadInput.exit_code
