"""infra/startup.sh as a launched machine runs it: killed with everything below it, and run again to the same bytes."""

from __future__ import annotations

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
from dreambooth_resume.launch.base import Package
from dreambooth_resume.launch.package import store_package
from dreambooth_resume.launch.record import write_launch
from tests.fakes.metadata_server import FakeMetadata, running_metadata
from tests.fakes.s3_server import ENVIRONMENT
from tests.resume.conftest import Undisturbed
from tests.resume.harness import ROOT, Bench, committed_steps, result_digests
from tests.resume.s3_home import S3Home

LENGTH = {"max_train_steps": 40, "checkpointing_steps": 5}
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
    environment: Mapping[str, str]
    metadata: FakeMetadata
    boots: int = 0

    def boot(self) -> Boot:
        self.boots += 1
        log = self.folder / f"boot-{self.boots}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", str(ROOT / "infra" / "startup.sh")],
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


def settings(package: Package, s3_home: S3Home, words: str, folder: Path) -> dict[str, str]:
    """What a launcher tells the script, and what stands for the network and for root here."""
    python = folder / "python"
    packages = " ".join(f"'{path}'" for path in sys.path if path.endswith("site-packages"))
    python.write_text(PYTHON.format(python=sys.executable, packages=packages))
    python.chmod(0o755)
    return {
        **ENVIRONMENT,
        "AWS_ENDPOINT_URL": s3_home.server_url,
        "AWS_EC2_METADATA_DISABLED": "false",
        "PIP_NO_INDEX": "1",
        "DBR_ROOT": str(folder / "opt"),
        "DBR_PYTHON": str(python),
        "DBR_STAGE": str(folder / "disk"),
        "DBR_HOLD_SECONDS": "0.1",
        "DBR_WAITS": "0.1",
        "DBR_SERVICE": "foreground",
        "DBR_HOME": s3_home.uri,
        "DBR_WORDS": words,
        "DBR_WHEEL": package.wheel_key,
        "DBR_WHEEL_SHA256": package.wheel_sha256,
        "DBR_CONSTRAINTS": package.constraints_key,
        "DBR_CONSTRAINTS_SHA256": package.constraints_sha256,
    }


@pytest.mark.timeout(400)  # three real processes, and pip
def test_killed_held_told_to_leave_and_run_again_ends_in_the_same_bytes(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, metadata: FakeMetadata, tmp_path: Path
) -> None:
    launch_id, storage = uuid.uuid4().hex, s3_home.storage
    words = tuple(word for word in bench.words(tmp_path, **LENGTH, output_dir=None, resume=None))
    write_launch(storage, launch_id, launcher="local", settings={}, words=words, version="0")
    package = store_package(storage)
    told = settings(package, s3_home, f"supervise {s3_home.uri} --launch {launch_id}", tmp_path)
    machine = Machine(tmp_path, {**told, "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url}, metadata)

    first = machine.boot()
    first.wait_for_line("durable 5 ")
    first.lose()
    assert 5 <= committed_steps(storage)[-1] < LENGTH["max_train_steps"]
    made_at = (tmp_path / "opt" / "venv" / ".made").stat().st_mtime_ns

    # On a machine that is about to go nothing is started, until that is withdrawn.
    metadata.spot_action = SPOT_ACTION
    second = machine.boot()
    second.wait_for_line("nothing is started until that is withdrawn")
    assert "Resuming" not in second.log.read_text()
    metadata.spot_action = None
    second.wait_for_line("Resuming from checkpoint-")
    # What systemd does when the machine is shut down. The shell has become the supervisor, so it hears of it.
    second.process.send_signal(signal.SIGTERM)
    assert second.ends() == ComeBack.exit_code

    third = machine.boot()
    assert third.ends() == 0, third.log.read_text()[-3000:]
    assert result_digests(storage) == undisturbed(**LENGTH)
    # It was the package from the home that trained, and the environment was made once.
    assert (tmp_path / "opt" / "venv" / ".made").stat().st_mtime_ns == made_at
    installed = list((tmp_path / "opt" / "venv").glob("lib/python*/site-packages/dreambooth_resume/cli/main.py"))
    assert len(installed) == 1
    assert (tmp_path / "disk" / "run").is_dir(), "the stage is on the fast disk"
