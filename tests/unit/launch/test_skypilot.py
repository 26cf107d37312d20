"""The skypilot launcher: the YAML, what the program `sky` is given, and what is refused before."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.base import Job, LaunchRequest
from dreambooth_resume.launch.launchers import split_words
from dreambooth_resume.launch.programs import Refused
from dreambooth_resume.launch.restart_rule import Ending, decide
from dreambooth_resume.launch.skypilot.launcher import SkyPilotLauncher, refuse_unknown_to_sky
from dreambooth_resume.launch.skypilot.settings import SkyPilotSettings
from dreambooth_resume.launch.skypilot.task import task, task_yaml
from dreambooth_resume.launch.state_folder import launch_folder
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.s3_address import S3Settings
from tests.contracts.launcher_cases import request_for
from tests.fakes.platform_programs import FakeProgram, fake_sky, without_programs
from tests.unit.launch.test_aws import PACKAGE

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[3]
CANARY = "hf_canary-that-nobody-may-see"


@pytest.fixture
def sky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProgram:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return fake_sky(tmp_path, monkeypatch)


def request() -> LaunchRequest:
    return replace(request_for("s3://bucket/dog"), package=PACKAGE)


def launcher(**settings: Any) -> SkyPilotLauncher:
    return SkyPilotLauncher(SkyPilotSettings.model_validate(settings))


def test_the_job_is_a_spot_machine_that_is_replaced_after_75_alone() -> None:
    found = yaml.safe_load(task_yaml(request(), SkyPilotSettings(accelerators="L4:1, A10G", infra="aws")))
    assert found["resources"] == {
        "accelerators": {"L4": 1, "A10G": 1},
        "use_spot": True,
        "disk_size": 100,
        "infra": "aws",
        "job_recovery": {
            "strategy": "EAGER_NEXT_REGION",
            "max_restarts_on_errors": 0,
            "recover_on_exit_codes": [75],
        },
    }
    # What the supervisor ends with where the rule says that a machine may come back is the one code of the list.
    codes = {code: decide([Ending(code=code, durable_step=0)], Log()).action for code in (0, 2, 75, 76, 77, 78, 79)}
    assert [code for code, action in codes.items() if action != "end"] == [75]


def test_the_machine_is_told_the_package_and_the_service_of_the_bucket() -> None:
    s3 = S3Settings(endpoint_url="https://minio.example:9000", region="eu-central-1")
    told = task(replace(request(), s3=s3), SkyPilotSettings())["envs"]
    assert told["DBR_HOME"] == "s3://bucket/dog"
    assert told["DBR_WORDS"].startswith("supervise s3://bucket/dog --launch ")
    assert told["DBR_WHEEL_SHA256"] == PACKAGE.wheel_sha256
    assert told["DBR_EXTRAS"] == "prodigy,tensorboard"
    assert told["AWS_ENDPOINT_URL_S3"] == "https://minio.example:9000"
    assert told["AWS_DEFAULT_REGION"] == "eu-central-1"


def test_the_setup_writes_the_startup_script_and_never_asks_for_another_machine(tmp_path: Path) -> None:
    """Run for real, with a Python that is none: what can't be prepared ends with 1, which SkyPilot doesn't restart."""
    found = task(request(), SkyPilotSettings())
    for text in (found["setup"], found["run"]):
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text("#!/bin/sh\n[ $2 = install ] || echo /bin/false\n")
    uv.chmod(0o755)
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{uv.parent}:{os.environ['PATH']}", "DBR_WAITS": "0"}
    environment |= {**found["envs"], "DBR_STAGE": str(tmp_path / "stage")}
    done = subprocess.run(
        ["bash"], input=found["setup"], text=True, env=environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "This machine can't be prepared" in done.stderr
    assert (tmp_path / "dbr" / "startup.sh").read_bytes() == (ROOT / "infra" / "startup.sh").read_bytes()


def test_by_hand_the_template_is_the_same_job_from_a_clone() -> None:
    template = yaml.safe_load((ROOT / "infra" / "skypilot.yaml").read_text())
    launched = task(request(), SkyPilotSettings())
    assert template["resources"] == launched["resources"]
    assert template["workdir"] == "."
    assert template["envs"].keys() <= launched["envs"].keys()
    for text in (template["setup"], template["run"]):
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    by_hand = [line for part in ("setup", "run") for line in template[part].splitlines() if line.endswith("by hand")]
    assert len(by_hand) == 3
    assert not [line for line in by_hand if line in launched["setup"] + launched["run"]]
    named = re.findall(r"infra/\S+|constraints\.txt|run\.yaml", "\n".join(by_hand))
    assert [name for name in named if not (ROOT / name).is_file()] == ["run.yaml"], "all else is in a clone"


def test_secrets_reach_sky_by_name_and_environment_alone(sky: FakeProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    wanted = launcher(secrets="HF_TOKEN")
    asked = request()
    job = wanted.start(asked)
    assert sky.jobs[asked.name]["secrets"] == {"HF_TOKEN": CANARY}
    assert yaml.safe_load(sky.jobs[asked.name]["text"])["secrets"] == {"HF_TOKEN": None}
    assert CANARY not in repr((sky.asked, sky.jobs[asked.name]["text"], job, wanted.plan(asked), wanted.settings))
    assert CANARY not in (launch_folder(asked.launch_id) / "task.yaml").read_text()


def test_a_missing_program_or_variable_is_refused_before_anything_is_made(
    sky: FakeProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH", raising=False)
    with pytest.raises(BadInput, match="NO_SUCH is not set here"):
        launcher(secrets="NO_SUCH").check(request())
    assert sky.asked == []
    without_programs(tmp_path, monkeypatch)
    with pytest.raises(BadInput, match="the program sky is not installed"):
        launcher().check(request())


def test_what_sky_refuses_is_said_and_nothing_is_left(sky: FakeProgram) -> None:
    sky.set(breaks=True)
    asked = request()
    with pytest.raises(Refused, match="no zone has such a machine"):
        launcher().start(asked)
    assert sky.jobs[asked.name]["status"] == "CANCELLED"
    assert not launch_folder(asked.launch_id).exists()


@pytest.mark.parametrize(
    ("status", "state"),
    [("PENDING", "waiting"), ("RECOVERING", "waiting"), ("RUNNING", "running"), ("FAILED_NO_RESOURCE", "ended")],
)
def test_a_job_stands_as_skypilots_queue_says(sky: FakeProgram, status: str, state: str) -> None:
    sky.set(jobs={"dbr-dog-1": {"status": status}})
    looked = launcher().look(Job(name="managed job dbr-dog-1", values={"name": "dbr-dog-1"}))
    assert looked.state == state
    assert status in looked.because
    assert "recovered 1 times" in looked.because


def test_logs_are_those_of_sky(sky: FakeProgram) -> None:
    sky.set(jobs={"dbr-dog-1": {"status": "RUNNING"}})
    job = Job(name="managed job dbr-dog-1", values={"name": "dbr-dog-1"})
    assert list(launcher().logs(job, follow=False) or ()) == ["step 1", "step 2"]
    assert launcher().logs(Job(name="another", values={"name": "another"}), follow=True) is None


def test_values_that_cannot_be_are_refused_and_a_secret_is_not_shown() -> None:
    with pytest.raises(BadInput, match="is no GPU"):
        split_words("skypilot", ["--accelerators", "L4 x 1:a"])
    with pytest.raises(ValidationError) as raised:
        SkyPilotSettings(secrets=f"HF_TOKEN={CANARY}")
    assert CANARY not in str(raised.value.errors(include_input=False)[0]["msg"])


@pytest.mark.parametrize(
    "settings",
    [{}, {"accelerators": "L4:1,A10G:1", "infra": "aws", "secrets": "HF_TOKEN"}, {"on_demand": True, "disk_gb": 50}],
)
def test_skypilot_itself_takes_the_job(settings: dict[str, Any]) -> None:
    pytest.importorskip("sky", reason="SkyPilot lives in an environment of its own")
    refuse_unknown_to_sky(task_yaml(request(), SkyPilotSettings.model_validate(settings)))
    refuse_unknown_to_sky((ROOT / "infra" / "skypilot.yaml").read_text())
