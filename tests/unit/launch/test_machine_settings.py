"""What a launched machine is told beside what the user has typed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.launch.machine_settings import told_of_notices
from dreambooth_resume.launch.skypilot.settings import SkyPilotSettings
from dreambooth_resume.launch.skypilot.task import task
from tests.contracts.launcher_cases import request_for

pytestmark = pytest.mark.quick

RUN = ("--pretrained_model_name_or_path", "m", "--instance_data_dir", "dog", "--instance_prompt", "sks dog")


@pytest.mark.parametrize(
    ("typed", "cloud", "added"),
    [
        ((), "aws", ("--spot", "aws")),
        (("--spot", "auto"), "gcp", ("--spot", "gcp")),
        (("--spot", "none"), "aws", ()),
        ((), "lambda", ()),
        ((), None, ()),
    ],
)
def test_where_the_cloud_is_known_nobody_has_to_find_out_unless_the_user_says_else(
    typed: tuple[str, ...], cloud: str | None, added: tuple[str, ...]
) -> None:
    request = replace(request_for("s3://bucket/dog"), options=resolve(parse_train([*RUN, *typed]), recorded=None))
    assert told_of_notices(request, cloud).command == (*request.command, *added)
    evaluation = replace(request, purpose="eval")
    assert told_of_notices(evaluation, cloud) == evaluation, "dbr eval has no such option"


@pytest.mark.parametrize(
    ("infra", "is_told"), [("gcp/europe-west4", True), ("aws", True), ("k8s", False), (None, False)]
)
def test_skypilot_knows_the_cloud_that_it_is_bound_to(infra: str | None, is_told: bool) -> None:
    words = task(request_for("s3://bucket/dog"), SkyPilotSettings(infra=infra))["envs"]["DBR_WORDS"]
    assert ("--spot" in words) == is_told
