"""The hf-jobs launcher: what the real client sends to a Hub on this machine, and what its refusals mean here."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack
from dreambooth_resume.launch.base import Job
from dreambooth_resume.launch.hf_jobs.job import script, sent
from dreambooth_resume.launch.hf_jobs.launcher import HfJobsLauncher
from dreambooth_resume.launch.hf_jobs.settings import HfJobsSettings, deadline_after
from dreambooth_resume.launch.launchers import split_words
from dreambooth_resume.launch.package import make_constraints
from dreambooth_resume.storage.s3_address import S3Settings
from tests.contracts.launcher_cases import request_for
from tests.fakes.hub_jobs_server import FakeJobs, running_jobs
from tests.unit.launch.test_aws import PACKAGE

pytestmark = pytest.mark.quick

KEYS = {"AWS_ACCESS_KEY_ID": "AKIA-canary", "AWS_SECRET_ACCESS_KEY": "secret-canary"}
REQUEST = replace(request_for("s3://bucket/dog"), package=PACKAGE)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJobs]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with running_jobs(monkeypatch) as hub:
        yield hub


def launcher(**settings: Any) -> HfJobsLauncher:
    return HfJobsLauncher(HfJobsSettings.model_validate(settings))


def test_the_job_is_what_was_asked_for_and_secrets_go_as_secrets(
    hub: FakeJobs, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = launcher(timeout="2h", attempts=5)
    wanted.check(REQUEST)
    assert hub.jobs == {}
    job = wanted.start(REQUEST)
    posted = hub.jobs[job.values["id"]]
    assert (posted["flavor"], posted["timeoutSeconds"], posted["attempts"]) == ("l4x1", 7200, 5)
    assert posted["labels"] == {"dbr-launch": REQUEST.launch_id, "name": REQUEST.name}
    assert posted["secrets"] == {**KEYS, "HF_TOKEN": hub.token}
    assert posted["command"][:2] == ["uv", "run"]
    assert posted["environment"]["DBR_WORDS"].endswith("--deadline 5400s")
    assert posted["environment"]["DBR_WHEEL_SHA256"] == PACKAGE.wheel_sha256
    assert "120 min after its start" in posted["environment"]["DBR_TELL"]
    assert "90 min after it began" in posted["environment"]["DBR_TELL"]
    told = repr((posted["environment"], posted["command"], hub.scripts, job, wanted.settings, wanted.plan(REQUEST)))
    assert not [value for value in (*KEYS.values(), hub.token) if value in told]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("timeout", "deadline"), [(600, 450), (3600, 2700), (14400, 12600), (86400, 84600)])
def test_a_quarter_is_kept_and_never_more_than_half_an_hour(timeout: float, deadline: float) -> None:
    assert deadline_after(timeout) == deadline


def test_a_shorter_deadline_of_the_user_holds() -> None:
    words = ["--pretrained_model_name_or_path", "x/y", "--instance_data_dir", "dog", "--instance_prompt", "sks"]
    options = resolve(parse_train([*words, "--deadline", "1h"]), recorded=None)
    job = sent(replace(REQUEST, options=options), HfJobsSettings())
    assert job.environment["DBR_WORDS"].endswith("--deadline 3600s")


def test_the_script_names_every_package_at_the_version_that_runs_here() -> None:
    """Read as PEP 723 says."""
    text = script(("prodigy",))
    [block] = re.findall(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$", text)
    lines = [line[2:] for line in block[0].splitlines()]
    header = tomllib.loads("\n".join(lines))
    assert header["requires-python"] == f"=={sys.version_info.major}.{sys.version_info.minor}.*"
    assert header["dependencies"] == make_constraints(extras=("prodigy",)).splitlines()
    assert "torch==2.13.0" in header["dependencies"]
    assert any(line.startswith("prodigyopt==") for line in header["dependencies"])
    compile(text, "hf_job.py", "exec")


def test_the_service_of_the_bucket_is_told() -> None:
    s3 = S3Settings(endpoint_url="https://minio.example:9000", region="eu-central-1", path_style=True)
    told = sent(replace(REQUEST, s3=s3), HfJobsSettings()).environment
    assert told["AWS_ENDPOINT_URL_S3"] == "https://minio.example:9000"
    assert told["AWS_DEFAULT_REGION"] == "eu-central-1"
    assert told["DBR_S3_PATH_STYLE"] == "yes"


def test_what_can_not_work_is_refused_and_nothing_is_started(hub: FakeJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="l4 is no kind of machine") as refused:
        launcher(flavor="l4").check(REQUEST)
    assert refused.value.fix == "--flavor l4x1"
    with pytest.raises(BadInput, match="is too short"):
        split_words("hf-jobs", ["--timeout", "5m"])
    with pytest.raises(BadInput, match="is no time"):
        split_words("hf-jobs", ["--timeout", "long"])
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BadInput, match="AWS_SECRET_ACCESS_KEY is not set here"):
        launcher().check(REQUEST)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(BadInput, match="there is no token"):
        launcher().check(REQUEST)
    assert hub.jobs == {}


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (401, AccessDenied, "needs the permission to start jobs"),
        (403, AccessDenied, "needs the permission to start jobs"),
        (402, BadInput, "wants to be paid first"),
        (400, BadInput, "the Hub refuses"),
        (500, ComeBack, "does not answer now"),
    ],
)
def test_the_hubs_refusals_in_our_words(hub: FakeJobs, status: int, error: type[Exception], said: str) -> None:
    hub.refuse["/api/jobs/owner"] = status
    with pytest.raises(error, match=said):
        launcher().start(REQUEST)
    assert hub.jobs == {}


def test_a_job_whose_answer_was_lost_is_cancelled(hub: FakeJobs) -> None:
    hub.loses_answers = True
    with pytest.raises(ComeBack):
        launcher().start(REQUEST)
    assert [job["stage"] for job in hub.jobs.values()] == ["CANCELED"]


def test_the_price_is_the_hubs_by_the_hour(hub: FakeJobs) -> None:
    found = launcher().price(REQUEST)
    assert found is not None
    assert found.per_hour == pytest.approx(0.0133 * 60)
    assert found.on_demand_per_hour is None


def test_logs_are_those_of_the_hub(hub: FakeJobs) -> None:
    job = launcher().start(REQUEST)
    hub.jobs[job.values["id"]]["stage"] = "COMPLETED"
    assert list(launcher().logs(job, follow=True) or ()) == ["step 1", "step 2"]
    assert launcher().look(Job(name="gone", values={"id": "gone", "namespace": "owner"})).state == "ended"
