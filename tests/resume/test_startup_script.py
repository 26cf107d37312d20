"""From a launch on AWS to its end: infra/startup.sh as the machine gets it, lost with everything below it.

The account is moto's, and boots nothing: the user data that lies there is run here, once for each machine of the group.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from dreambooth_resume.errors import ComeBack
from dreambooth_resume.launch.base import LaunchRequest
from dreambooth_resume.launch.launchers import launcher_named
from dreambooth_resume.launch.package import store_package
from dreambooth_resume.launch.record import write_launch
from dreambooth_resume.storage.s3_address import S3Settings
from tests.contracts.launcher_cases import options
from tests.fakes.aws_account import REGION, Account, account
from tests.fakes.metadata_server import FakeMetadata, running_metadata
from tests.fakes.s3_server import ENVIRONMENT
from tests.resume.conftest import Undisturbed
from tests.resume.harness import Bench, committed_steps, result_digests
from tests.resume.s3_home import S3Home

LENGTH = {"max_train_steps": 24, "checkpointing_steps": 4}
PATIENCE_SECONDS = 120.0
SPOT_ACTION = {"action": "terminate", "time": "2030-01-01T00:02:00Z"}

# A Python whose environments have pip, torch and all the rest before anything is installed: there is no network.
PYTHON = """\
#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec {python} "$@"
{python} -m venv --without-pip "$3" || exit 1
printf '%s\\n' {packages} > "$("$3/bin/python" -c 'import site; print(site.getsitepackages()[0])')/packages.pth"
"""


@dataclass(slots=True)
class Machine:
    """A machine that boots: its disk, and what the script is told."""

    folder: Path
    script: Path
    environment: Mapping[str, str]
    boots: int = 0

    def boot(self) -> Boot:
        self.boots += 1
        log = self.folder / f"boot-{self.boots}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", str(self.script)],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Boot(process, log)


@dataclass(slots=True)
class Boot:
    """One run of the script."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert self.process.poll() is None, f"ended before {what}:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"never came to {what}:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.02)

    def wait_for_line(self, text: str) -> None:
        self.wait_for(lambda: text in self.log.read_text(), f"{text!r}")

    def lose(self) -> None:
        """The machine is gone: script, supervisor and training at once."""
        everyone = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for process in everyone:
            process.kill()
        psutil.wait_procs(everyone, timeout=30)
        self.process.wait(timeout=30)

    def ends(self) -> int:
        try:
            return self.process.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.lose()
            raise AssertionError(self.log.read_text()[-3000:]) from None


@pytest.fixture
def metadata() -> Iterator[FakeMetadata]:
    with running_metadata(clouds=frozenset({"aws"})) as fake:
        yield fake


def environment(server_url: str, folder: Path) -> dict[str, str]:
    """What stands for the network, for root and for a fast disk here."""
    python = folder / "python"
    packages = " ".join(f"'{path}'" for path in sys.path if path.endswith("site-packages"))
    python.write_text(PYTHON.format(python=sys.executable, packages=packages))
    python.chmod(0o755)
    return {
        **ENVIRONMENT,
        "AWS_ENDPOINT_URL": server_url,
        "AWS_EC2_METADATA_DISABLED": "false",
        "PIP_NO_INDEX": "1",
        "DBR_ROOT": str(folder / "opt"),
        "DBR_PYTHON": str(python),
        "DBR_STAGE": str(folder / "disk"),
        "DBR_HOLD_SECONDS": "0.1",
        "DBR_WAITS": "0.1",
        "DBR_SERVICE": "foreground",
    }


def user_data(aws: Account, group: str) -> bytes:
    """What a machine of the group is given to run."""
    [version] = aws.client("ec2").describe_launch_template_versions(LaunchTemplateName=group)["LaunchTemplateVersions"]
    return base64.b64decode(version["LaunchTemplateData"]["UserData"])


@pytest.mark.timeout(400)  # two trainings in real processes, and pip
def test_launched_lost_held_told_to_leave_and_finished_in_the_same_bytes(
    bench: Bench,
    undisturbed: Undisturbed,
    s3_home: S3Home,
    metadata: FakeMetadata,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aws, launch_id, storage = account(monkeypatch), uuid.uuid4().hex, s3_home.storage
    # The tiny model is a folder, which a launch on AWS refuses; everything behind that is real.
    settings = {"ami": aws.image, "region": REGION}
    words = tuple(bench.words(tmp_path, **LENGTH, output_dir=None, resume=None))
    write_launch(storage, launch_id, launcher="aws", settings=settings, words=words, version="0")
    request = LaunchRequest(
        launch_id=launch_id,
        home=s3_home.uri,
        s3=S3Settings(),
        options=options(),
        command=("supervise", s3_home.uri, "--launch", launch_id),
        package=store_package(storage),
    )
    launcher = launcher_named("aws", settings)
    job = launcher.start(request)
    group, script = job.values["group"], tmp_path / "user-data"
    script.write_bytes(user_data(aws, group))
    machine = Machine(
        tmp_path,
        script,
        {**environment(s3_home.server_url, tmp_path), "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url},
    )

    # Lost before anything is installed.
    first = machine.boot()
    made = tmp_path / "opt" / "venv" / ".made"
    first.wait_for(made.exists, "the environment")
    first.lose()
    made_at = made.stat().st_mtime_ns
    # AWS takes the machine, and the group gets another.
    tag = [{"Name": "tag:dbr:launch", "Values": [launch_id]}]
    [lost] = aws.instances(tag)
    aws.client("ec2").terminate_instances(InstanceIds=[lost["InstanceId"]])
    assert launcher.look(job).state == "running"
    assert lost["InstanceId"] not in launcher.look(job).because

    # On a machine that is about to go nothing is started, until that is withdrawn.
    metadata.spot_action = SPOT_ACTION
    second = machine.boot()
    second.wait_for_line("nothing is started until that is withdrawn")
    assert not (tmp_path / "disk" / "run").exists()
    metadata.spot_action = None
    second.wait_for_line("durable 4 ")
    # What systemd does when the machine is shut down. The shell has become the supervisor, so it hears of it.
    second.process.send_signal(signal.SIGTERM)
    assert second.ends() == ComeBack.exit_code
    assert 4 <= committed_steps(storage)[-1] < LENGTH["max_train_steps"]
    assert launcher.look(job).state == "running", "75 is no end: the group keeps its machine"

    third = machine.boot()
    assert third.ends() == 0, third.log.read_text()[-3000:]
    assert "Resuming from checkpoint-" in third.log.read_text()
    assert result_digests(storage) == undisturbed(**LENGTH)
    # It was the package from the home that trained, and the environment was made once.
    assert made.stat().st_mtime_ns == made_at
    assert list(made.parent.glob("lib/python*/site-packages/dreambooth_resume/cli/main.py"))
    assert (tmp_path / "disk" / "run").is_dir(), "the stage is on the fast disk"
    # And the machine has given itself back.
    assert aws.instances(tag) == []
    assert launcher.look(job).state == "ended"
    launcher.release(job)
    assert group not in "".join(aws.tagged())
