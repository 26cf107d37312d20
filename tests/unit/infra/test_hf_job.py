"""infra/hf_job.py as a job of the Hub runs it: the package from a bucket on this machine, and what its end means."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from dreambooth_resume import errors
from dreambooth_resume.infra.hf_job import NEVER_AGAIN, is_refused
from dreambooth_resume.launch.package import store_package
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from tests.fakes.s3_server import ENVIRONMENT, S3Server, shared_server

ROOT = Path(__file__).parents[3]
STAND_IN = """\
import os, signal, sys, time
print("stage", "--stage_dir" in sys.argv, flush=True)
if sys.argv[1] == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    print("waits", flush=True)
    time.sleep(60)
if sys.argv[1] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return shared_server()


def wheel_of(program: str) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("dreambooth_resume/__init__.py", "")
        archive.writestr("dreambooth_resume/__main__.py", program)
    return out.getvalue()


def started(server: S3Server, tmp_path: Path, words: str, wheel: bytes | None = None, **told: str) -> list[str]:
    """A home with this wheel, and the script on it: its environment, as `env` takes it."""
    home = server.new_home()
    storage = S3Storage(home, S3Settings(endpoint_url=server.url))
    if wheel is None:
        package = store_package(storage)
        key, digest = package.wheel_key, package.wheel_sha256
    else:
        key, digest = "packages/x/dbr.whl", hashlib.sha256(wheel).hexdigest()
        storage.put_if_absent(key, wheel)
    told = {
        **ENVIRONMENT,
        "AWS_ENDPOINT_URL_S3": server.url,
        "TMPDIR": str(tmp_path),
        "DBR_TELL": "the training leaves in time",
        "DBR_HOME": home,
        "DBR_WORDS": words.replace("HOME", home),
        "DBR_WHEEL": key,
        "DBR_WHEEL_SHA256": digest,
        **told,
    }
    return ["env", *(f"{name}={value}" for name, value in told.items()), sys.executable, str(ROOT / "infra/hf_job.py")]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, cwd="/")


@pytest.mark.parametrize(("word", "code"), [("0", 0), ("75", 75), ("76", 0), ("78", 0), ("70", 70), ("die", 137)])
def test_only_what_may_come_back_makes_the_hub_start_again(
    server: S3Server, tmp_path: Path, word: str, code: int
) -> None:
    done = run(started(server, tmp_path, word, wheel_of(STAND_IN)))
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.splitlines()[:2] == ["hf_job.py: the training leaves in time", "stage True"]


def test_the_codes_are_those_of_the_restart_rule() -> None:
    all_codes = {
        value.exit_code for value in vars(errors).values() if isinstance(value, type) and hasattr(value, "exit_code")
    }
    assert set(NEVER_AGAIN) == {0} | all_codes - {errors.DbrError.exit_code, errors.ComeBack.exit_code}


def test_sigterm_reaches_the_run(server: S3Server, tmp_path: Path) -> None:
    job = subprocess.Popen(started(server, tmp_path, "wait", wheel_of(STAND_IN)), stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert any(line == "waits\n" for line in job.stdout)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=60)
    assert job.returncode == 75


def test_another_package_than_was_launched_is_not_run(server: S3Server, tmp_path: Path) -> None:
    done = run(started(server, tmp_path, "0", wheel_of(STAND_IN), DBR_WHEEL_SHA256="0" * 64))
    assert done.returncode == 0
    assert "is not what was launched" in done.stdout
    assert "stage" not in done.stdout


def test_a_home_that_lacks_the_package_is_not_paid_for_again(server: S3Server, tmp_path: Path) -> None:
    done = run(started(server, tmp_path, "0", wheel_of(STAND_IN), DBR_WHEEL="packages/x/none.whl"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the package can't be read from s3://" in done.stdout
    assert "Traceback" not in done.stderr


def test_dbrs_own_wheel_runs_from_the_home(server: S3Server, tmp_path: Path) -> None:
    """The real package, asked for a launch that the home has not: it says so, and nobody starts it again."""
    done = run(started(server, tmp_path, f"supervise HOME --launch {'0' * 32} --s3_endpoint_url {server.url}"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the home has no such launch" in done.stderr
    assert "the run ended with 2" in done.stdout
    [place] = tmp_path.glob("dbr-*")
    assert os.listdir(place / "package")


@pytest.mark.parametrize(("status", "refused"), [(403, True), (404, True), (400, False), (503, False)])
def test_only_a_lasting_refusal_is_not_tried_again(status: int, refused: bool) -> None:
    answer = {"Error": {"Code": "any"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert is_refused(ClientError(answer, "GetObject")) is refused
