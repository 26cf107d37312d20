"""What lies in infra/: read by the linters there are, and the same as what the documents and the code say."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from dreambooth_resume import errors
from dreambooth_resume.runs.home import LOG_PREFIX

ROOT = Path(__file__).parents[3]
INFRA = ROOT / "infra"
RESTARTED = {errors.DbrError.exit_code, errors.ComeBack.exit_code}


def _program(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if found is None:
        pytest.skip(f"{name} is not installed: make system-deps")
    return found


@pytest.fixture(scope="module")
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(INFRA / "dbr.service")
    return parser


@pytest.mark.real
@pytest.mark.parametrize(
    "path",
    sorted([*INFRA.glob("*.sh"), *INFRA.glob("*.slurm"), *(ROOT / ".ci").glob("*.sh")]),
    ids=lambda path: path.name,
)
def test_shellcheck_has_nothing_to_say(path: Path) -> None:
    done = subprocess.run([_program("shellcheck"), str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([_program("hadolint"), str(INFRA / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert done.stdout + done.stderr == ""


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (INFRA / "dbr.service").read_text()
    # Its program, which only a machine that was set up has, and its user.
    text = text.replace("/opt/dbr/startup.sh", "/bin/true").replace("User=dbr\n", "")
    (tmp_path / "dbr.service").write_text(text)
    command = [_program("systemd-analyze"), "verify", "--man=no", str(tmp_path / "dbr.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in done.stderr.splitlines() if "dbr.service" in line] == []


def test_the_unit_follows_the_restart_rule(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    all_codes = {
        value.exit_code for value in vars(errors).values() if isinstance(value, type) and hasattr(value, "exit_code")
    }
    assert {int(code) for code in service["RestartPreventExitStatus"].split()} == all_codes - RESTARTED
    assert service["Restart"] == "on-failure"


def test_the_unit_gives_a_save_the_time_of_a_notice(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert service["KillSignal"] == "SIGTERM"
    # SIGTERM to all would reach the training twice, once through its supervisor.
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > 120


def test_signals_reach_the_program_in_the_image() -> None:
    lines = (INFRA / "Dockerfile").read_text().splitlines()
    for keyword in ("ENTRYPOINT", "CMD"):
        [line] = [line for line in lines if line.startswith(keyword)]
        assert isinstance(json.loads(line.removeprefix(keyword)), list), "in shell form, a shell keeps SIGTERM"


def test_the_image_takes_nothing_along_that_is_not_named() -> None:
    copied = [line.split()[1:-1] for line in (INFRA / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    names = {name.rstrip("/") for line in copied for name in line}
    assert "." not in names
    needed = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints.txt",
        "dreambooth_resume",
        "configs",
        "infra",
        "ui",
    }
    assert names == needed


@pytest.mark.parametrize("path", sorted(INFRA.glob("*.json")), ids=lambda path: path.name)
def test_policies_are_json_with_known_parts(path: Path) -> None:
    policy = json.loads(path.read_text())
    for statement in policy.get("Statement", []):
        assert policy["Version"] == "2012-10-17"
        assert statement["Effect"] in ("Allow", "Deny")
        assert {"Action"} <= statement.keys() <= {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        assert all(re.fullmatch(r"(?:s3|ec2|autoscaling|iam|ssm|sts|fis):\w+", action) for action in actions), (
            "no wildcard"
        )


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("home-policy.json", "storage.md"),
        ("bucket-lifecycle.json", "storage.md"),
        ("bucket-policy.json", "storage.md"),
    ],
)
def test_the_documents_show_the_policies_as_they_are(name: str, document: str) -> None:
    shown = re.findall(r"^```json\n(.*?)^```", (ROOT / "docs" / document).read_text(), re.M | re.S)
    assert (INFRA / name).read_text() in shown


def test_the_bucket_policy_is_about_the_log() -> None:
    [statement] = json.loads((INFRA / "bucket-policy.json").read_text())["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Resource"].endswith(f"/{LOG_PREFIX}*")
    assert statement["Condition"] == {"Null": {"s3:if-none-match": "true"}}


def test_the_files_are_read_as_parts_of_the_package() -> None:
    folder = files("dreambooth_resume.infra")
    for name in ("startup.sh", "dbr.service", "Dockerfile", "home-policy.json", "aws-machine-policy.json"):
        assert (folder / name).read_text() == (INFRA / name).read_text()
