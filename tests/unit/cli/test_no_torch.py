"""Reading, fetching and deleting work on a machine without torch, and answer at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.toy_run import begin
from tests.fakes.watched_run import record_run

PROGRAM = """
import sys
from dreambooth_resume.cli.main import main
code = main(sys.argv[1:])
print("heavy:", code, [name for name in ("torch", "accelerate", "diffusers", "boto3") if name in sys.modules])
"""


@pytest.mark.parametrize(
    "words",
    [
        ["history", "HOME"],
        ["history", "HOME", "--check"],
        ["checkpoints", "verify", "HOME"],
        ["checkpoints", "pull", "HOME", "out"],
        ["checkpoints", "delete", "HOME", "1", "--yes"],
        ["save-now", "HOME"],
        ["status", "HOME"],
        ["stop", "HOME"],
        ["report", "HOME"],
        ["compare", "HOME", "HOME"],
        ["eval", "HOME", "--show"],
        ["launch", "list"],
        ["gc", "HOME", "--yes"],
        ["delete", "HOME", "--yes"],
    ],
)
def test_a_command_on_a_home_needs_no_heavy_library(words: list[str], tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "dog")
    record_run(storage)
    attempt = begin(storage)
    for step in (1, 2):
        attempt.commit(step)
    attempt.stop()
    named = [str(storage.root) if word == "HOME" else word for word in words]
    # Of launches to a bucket that this machine knows `launch list` asks the bucket.
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *named],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
    )
    assert done.stdout.splitlines()[-1] == "heavy: 0 []", done.stderr
