"""The wheel that a launch puts into the home is this very version, and works where nothing else of it is."""

from __future__ import annotations

import email
import hashlib
import os
import re
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from dreambooth_resume.launch.base import Job
from dreambooth_resume.launch.output import OutputCopy
from dreambooth_resume.launch.package import installed_version, make_constraints, make_wheel, store_package
from dreambooth_resume.launch.record import write_launch, write_started
from dreambooth_resume.runs.home import is_package
from dreambooth_resume.workflows.inventory import take_inventory
from tests.fakes.memory_storage import MemoryStorage

ROOT = Path(__file__).parents[3]


def test_the_wheel_holds_every_file_of_the_package_and_is_the_same_each_time() -> None:
    name, wheel = make_wheel()
    assert name == f"dreambooth_resume-{installed_version()}-py3-none-any.whl"
    assert make_wheel() == (name, wheel)
    archive = zipfile.ZipFile(BytesIO(wheel))
    metadata = email.message_from_bytes(archive.read(f"dreambooth_resume-{installed_version()}.dist-info/METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("dreambooth-resume", installed_version())
    members = set(archive.namelist())
    for path in ("cli/main.py", "py.typed", "configs/sdxl.yaml", "infra/__init__.py", "ui/__init__.py"):
        assert f"dreambooth_resume/{path}" in members
    page = (ROOT / "docs" / "troubleshooting.md").read_bytes()
    assert archive.read("dreambooth_resume/cli/troubleshooting.md") == page
    assert not [member for member in members if "__pycache__" in member or "tests/" in member]


@pytest.mark.slow
def test_pip_installs_it_and_it_runs_from_there(tmp_path: Path) -> None:
    name, wheel = make_wheel()
    (tmp_path / name).write_bytes(wheel)
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    done = subprocess.run([*pip, str(tmp_path / name)], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(target)}
    program = "import dreambooth_resume; print(dreambooth_resume.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert where.stdout.startswith(str(target))
    shown = subprocess.run(
        [sys.executable, "-m", "dreambooth_resume", "--version"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.strip() == f"dbr {installed_version()}"
    wrong = subprocess.run(
        [sys.executable, "-m", "dreambooth_resume", "trian"], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    more = wrong.stderr.splitlines()[-1].removeprefix("  more: dbr ").split()
    told = subprocess.run(
        [sys.executable, "-m", "dreambooth_resume", *more], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert told.stdout.startswith("### Bad input\nExit 2.")


def test_the_versions_are_those_of_here_without_their_build() -> None:
    lines = make_constraints(extras=("prodigy",)).splitlines()
    pinned = dict(line.split("==") for line in lines)
    assert pinned["torch"] == "2.13.0"
    assert {"diffusers", "peft", "boto3", "urllib3", "prodigyopt"} <= pinned.keys()
    assert "prodigyopt" not in make_constraints()
    assert "dreambooth-resume" not in pinned
    assert "pytest" not in pinned
    tested = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.M))
    assert pinned["diffusers"] == tested["diffusers"]


def test_what_launches_leave_in_a_home_is_known_to_who_deletes_it(tmp_path: Path) -> None:
    storage = MemoryStorage()
    store_package(storage)
    write_launch(storage, "0" * 32, launcher="local", settings={}, words=(), version="0.1.0")
    write_started(storage, "0" * 32, launcher="local", job=Job(name="pid 7"))
    (tmp_path / "output.log").touch()
    copy = OutputCopy(storage, tmp_path / "output.log", interval_seconds=60.0)
    (tmp_path / "output.log").write_text("step 1")
    copy.copy()
    found = take_inventory(storage)
    assert found.foreign == ()
    assert {kind: len(keys) for kind, keys in found.ours.items() if keys} == {
        "package": 2,
        "note": 2,
        "status and curves": 1,
    }


def test_both_lie_in_the_home_under_their_digests_and_are_put_there_once() -> None:
    storage = MemoryStorage()
    package = store_package(storage, extras=("8bit",))
    assert store_package(storage, extras=("8bit",)) == package
    assert sorted(storage.objects) == sorted((package.wheel_key, package.constraints_key))
    for key, sha256 in (
        (package.wheel_key, package.wheel_sha256),
        (package.constraints_key, package.constraints_sha256),
    ):
        assert hashlib.sha256(storage.objects[key]).hexdigest() == sha256
        assert sha256 in key
        assert is_package(key)
