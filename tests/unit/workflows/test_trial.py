"""The trial of `dbr doctor --deep` and `dbr estimate --measure`: what it is told. The program is a stand-in here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dreambooth_resume.config.load import GivenOptions, parse_train, resolve
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.workflows.notify import notify_address
from dreambooth_resume.workflows.trial import try_out

pytestmark = pytest.mark.quick


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GivenOptions:
    """What the trial of a run with a bucket's base model gives to `dbr train`."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 70\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    words = [
        *("--pretrained_model_name_or_path", "s3://models/sdxl", "--instance_data_dir", "d", "--instance_prompt", "p"),
        *("--s3_endpoint_url", "http://127.0.0.1:9000", "--s3_addressing_style", "path"),
    ]
    with pytest.raises(RefusedToGoOn, match="exit code 70"):
        try_out(resolve(parse_train(words), recorded=None), tmp_path)
    return parse_train(["--config", str(tmp_path / "trial.yaml")])


def test_it_posts_nothing_to_the_users_web_hook(told: GivenOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBR_NOTIFY", "https://hooks.slack.com/services/T0/B0/x")
    assert notify_address(told) is None


def test_a_base_model_in_a_bucket_is_reached_as_the_run_reaches_it(told: GivenOptions) -> None:
    assert told.value("s3_endpoint_url") == "http://127.0.0.1:9000"
    assert told.value("s3_addressing_style") == "path"
