"""Every launcher with a platform to try it on: a new one is one function and one line here."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.launch.base import Launcher, LaunchRequest, Package
from dreambooth_resume.launch.launchers import launcher_named
from dreambooth_resume.launch.queue import gpus_here, waiting_turn
from dreambooth_resume.launch.record import write_launch
from dreambooth_resume.launch.state_folder import state_folder
from dreambooth_resume.storage.local import LocalStorage
from dreambooth_resume.storage.s3_address import S3Settings
from tests.fakes.aws_account import REGION, account
from tests.fakes.hub_jobs_server import running_jobs
from tests.fakes.platform_programs import FakeProgram, fake_kubectl, fake_sky
from tests.fakes.slurm_cluster import PACKAGES as SLURM_PACKAGES
from tests.fakes.slurm_cluster import missing_programs, shared_cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherCase:
    """A launcher, a request that its platform takes, and a look at what there is on that platform because of us."""

    launcher: Launcher
    request: LaunchRequest
    made: Callable[[], set[str]]
    break_start: Callable[[], None]
    """From now on a start fails half way, if the platform can fail there at all."""
    end_job: Callable[[], None] = lambda: None
    """Let what was launched come to its end by itself."""


def options() -> TrainOptions:
    """Those of a run that no launcher has anything against."""
    words = [
        "--pretrained_model_name_or_path",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "--instance_data_dir",
        "dog",
    ]
    return resolve(parse_train([*words, "--instance_prompt", "a photo of sks dog"]), recorded=None)


def request_for(home: str, s3: S3Settings | None = None) -> LaunchRequest:
    """A request to train in `home`."""
    launch_id = uuid.uuid4().hex
    return LaunchRequest(
        launch_id=launch_id,
        home=home,
        s3=s3 or S3Settings(),
        options=options(),
        command=("supervise", home, "--launch", launch_id),
    )


@contextlib.contextmanager
def local_case(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[LauncherCase]:
    """A job that waits for its turn, which it never gets: everything is real but the training."""
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))
    request = request_for(str(folder / "dog"))
    storage = LocalStorage(folder / "dog")
    write_launch(storage, request.launch_id, launcher="local", settings={}, words=(), version="0")

    def break_start() -> None:
        patch.setattr("sys.executable", str(folder / "no-such-python"))

    with waiting_turn(state_folder(), gpus_here(), told_to_leave=lambda: False, tell=print) as taken:
        assert taken is not None
        yield LauncherCase(
            launcher=launcher_named("local", {}),
            request=request,
            made=lambda: {path.name for path in (state_folder() / "launches").glob("*")},
            break_start=break_start,
        )


@contextlib.contextmanager
def aws_case(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[LauncherCase]:
    """A group in moto's account, whose machine never boots: tests/resume/test_startup_script.py boots it."""
    aws = account(patch)
    request = _packed("s3://bucket/dog")
    ec2 = aws.client("ec2")
    firewall = ec2.create_security_group(GroupName=uuid.uuid4().hex, Description="of a test")["GroupId"]
    launcher = launcher_named("aws", {"ami": aws.image, "region": REGION, "security_groups": firewall})

    yield LauncherCase(
        launcher=launcher,
        request=request,
        made=aws.tagged,
        # The template can still be made, and the group's first machine can't.
        break_start=lambda: ec2.delete_security_group(GroupId=firewall),
        end_job=lambda: launcher.end_machine(request.launch_id, "terminate"),
    )


@contextlib.contextmanager
def slurm_case(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[LauncherCase]:
    """A job in a partition that is closed, so that it waits. tests/resume/test_launch_slurm.py runs some."""
    if missing := missing_programs():
        pytest.skip(f"{', '.join(missing)} not installed: apt-get install --no-install-recommends {SLURM_PACKAGES}")
    cluster = shared_cluster()
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))
    for name, value in cluster.environment.items():
        patch.setenv(name, value)

    def break_start() -> None:
        (folder / "bin").mkdir()
        (folder / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: no more' >&2\nexit 1\n")
        (folder / "bin" / "sbatch").chmod(0o755)
        patch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)

    yield LauncherCase(
        launcher=launcher_named("slurm", {"partition": "closed"}),
        request=request_for(str(folder / "dog")),
        made=lambda: cluster.jobs() | {found.key for found in LocalStorage(folder / "dog").list()},
        break_start=break_start,
    )


def _packed(home: str) -> LaunchRequest:
    digest = "0" * 64
    package = Package(wheel_key="w", wheel_sha256=digest, constraints_key="c", constraints_sha256=digest)
    return replace(request_for(home), package=package)


@contextlib.contextmanager
def skypilot_case(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[LauncherCase]:
    """A program `sky` that keeps a queue and starts nothing."""
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))
    sky = fake_sky(folder, patch)
    yield LauncherCase(
        launcher=launcher_named("skypilot", {"secrets": "HF_TOKEN"}),
        request=_packed("s3://bucket/dog"),
        made=lambda: _alive(sky) | {path.name for path in (state_folder() / "launches").glob("*")},
        break_start=lambda: sky.set(breaks=True),
    )


@contextlib.contextmanager
def hf_jobs_case(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[LauncherCase]:
    """The real client library, and a Hub on this machine that starts nothing."""
    token = os.environ["HF_TOKEN"]
    with running_jobs(patch) as hub:
        hub.token = token
        patch.setenv("HF_TOKEN", token)

        def break_start() -> None:
            hub.loses_answers = True

        yield LauncherCase(
            launcher=launcher_named("hf-jobs", {"secrets": "HF_TOKEN"}),
            request=_packed("s3://bucket/dog"),
            made=lambda: {name for name, job in hub.jobs.items() if job["stage"] in ("SCHEDULING", "RUNNING")},
            break_start=break_start,
        )


@contextlib.contextmanager
def kubernetes_case(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[LauncherCase]:
    """A program `kubectl` that keeps Jobs and starts no pods."""
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))
    kubectl = fake_kubectl(folder, patch)
    yield LauncherCase(
        launcher=launcher_named("kubernetes", {"image": "registry/dbr:1", "secret": "dbr"}),
        request=request_for("s3://bucket/dog"),
        made=lambda: set(kubectl.jobs) | {path.name for path in (state_folder() / "launches").glob("*")},
        break_start=lambda: kubectl.set(breaks=True),
    )


def _alive(sky: FakeProgram) -> set[str]:
    return {name for name, job in sky.jobs.items() if job["status"] != "CANCELLED"}


CASES: dict[str, Callable[[Path, pytest.MonkeyPatch], contextlib.AbstractContextManager[LauncherCase]]] = {
    "aws": aws_case,
    "hf-jobs": hf_jobs_case,
    "kubernetes": kubernetes_case,
    "local": local_case,
    "slurm": slurm_case,
    "skypilot": skypilot_case,
}
NEED_MORE = {"slurm"}
"""Launchers whose platform may be missing here."""
