"""The trial of `dbr doctor --deep` and `dbr estimate --measure`: what it is told. The program is a stand-in here."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.cli.ending import ended_as_by_ctrl_c
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


def test_told_to_end_in_the_moment_of_its_start_it_leaves_no_process_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, began, before = tmp_path / "program", list[subprocess.Popen[str]](), signal.getsignal(signal.SIGTERM)
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)

    class ToldMeanwhile(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            began.append(self)
            # There is the process, and nobody else knows of it yet.
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(subprocess, "Popen", ToldMeanwhile)
    words = ["--pretrained_model_name_or_path", "m", "--instance_data_dir", "d", "--instance_prompt", "p"]
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), ended_as_by_ctrl_c():
        try_out(resolve(parse_train(words), recorded=None), tmp_path)
    (process,) = began
    assert process.poll() == -signal.SIGKILL
    assert signal.getsignal(signal.SIGTERM) == before


def test_it_posts_nothing_to_the_users_web_hook(told: GivenOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBR_NOTIFY", "https://hooks.slack.com/services/T0/B0/x")
    assert notify_address(told) is None


def test_a_base_model_in_a_bucket_is_reached_as_the_run_reaches_it(told: GivenOptions) -> None:
    assert told.value("s3_endpoint_url") == "http://127.0.0.1:9000"
    assert told.value("s3_addressing_style") == "path"
