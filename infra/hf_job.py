"""What a job of Hugging Face runs, with uv; `dbr launch hf-jobs` puts what is to be installed above this text.

Reads dbr's own wheel from the home, compares its SHA-256, unpacks it beside this file and runs it. Killed anywhere and
started again it does the same again. Told by the same variables as infra/startup.sh: DBR_HOME, DBR_WORDS, DBR_WHEEL and
DBR_WHEEL_SHA256; DBR_TELL is printed first, and DBR_S3_PATH_STYLE says how the bucket is addressed.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from types import FrameType

NEVER_AGAIN = (0, 2, 76, 77, 78, 79)
"""Ends after which nobody should start the run again; the Hub does so after anything but 0."""
NO_SUCH_PACKAGE = 2


def main() -> int:
    """0 where nothing is to be started again, else what the run ended with."""
    from botocore.exceptions import BotoCoreError, ClientError

    print(f"hf_job.py: {os.environ['DBR_TELL']}", flush=True)
    try:
        wheel = read_wheel(os.environ["DBR_HOME"], os.environ["DBR_WHEEL"])
    except (BotoCoreError, ClientError) as error:  # tried ten times
        print(f"hf_job.py: the package can't be read from {os.environ['DBR_HOME']}: {error}", flush=True)
        return 0 if is_refused(error) else 1
    if hashlib.sha256(wheel).hexdigest() != os.environ["DBR_WHEEL_SHA256"]:
        print("hf_job.py: the package in the home is not what was launched (SHA-256 differs).", flush=True)
        return 0
    # /data and the like may be a mounted bucket: what is read all the time belongs on the machine's own disk.
    place = Path(tempfile.mkdtemp(prefix="dbr-"))
    zipfile.ZipFile(BytesIO(wheel)).extractall(place / "package")
    code = run(shlex.split(os.environ["DBR_WORDS"]), place)
    print(f"hf_job.py: the run ended with {code}.", flush=True)
    if code in NEVER_AGAIN:
        print("hf_job.py: nobody should start it again as it is, so this job ends as done. dbr status says why.")
        return 0
    return code if code > 0 else 128 - code


def is_refused(error: Exception) -> bool:
    """The service says that there is no such thing, or not for these keys: another attempt would cost the same."""
    from botocore.exceptions import ClientError, NoCredentialsError, PartialCredentialsError

    if isinstance(error, ClientError):
        # Not every 4xx: S3 says 400 to a request that took too long.
        return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (401, 403, 404)
    return isinstance(error, NoCredentialsError | PartialCredentialsError)


def read_wheel(home: str, key: str) -> bytes:
    """The body of that key of the home, which is in a bucket."""
    import boto3
    from botocore.config import Config

    bucket, _, prefix = home.removeprefix("s3://").partition("/")
    styles = {"yes": "path", "no": "virtual"}
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 10},
        s3={"addressing_style": styles.get(os.environ.get("DBR_S3_PATH_STYLE", ""), "auto")},
    )
    answer = boto3.client("s3", config=config).get_object(Bucket=bucket, Key=f"{prefix}/{key}".lstrip("/"))
    body = answer["Body"].read()
    assert isinstance(body, bytes)
    return body


def run(words: list[str], place: Path) -> int:
    """Run dbr to its end, hand the Hub's signals on to it; its exit code, minus the signal's number if one ended it."""
    stage = place / "stage"
    stage.mkdir()
    found = os.environ.get("PYTHONPATH", "")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(place / "package"), *([found] if found else [])]),
        "XDG_STATE_HOME": str(place / "state"),
    }
    command = [sys.executable, "-m", "dreambooth_resume", *words, "--stage_dir", str(stage)]
    # Python looks into the working directory first.
    child = subprocess.Popen(command, env=environment, cwd=stage)

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, forward)
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
