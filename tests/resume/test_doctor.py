"""`dbr doctor --deep`: real steps, and a checkpoint there and back, of which nothing is left."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import main
from dreambooth_resume.workflows.scratch import SCRATCH_PREFIX, scratch_folder
from tests.resume.forking_python import forking_python
from tests.resume.harness import Bench


@pytest.mark.slow
@pytest.mark.timeout(900)  # two whole starts, on a machine that may be busy
def test_deep_trains_real_steps_and_brings_a_checkpoint_back(
    bench: Bench, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(bench.pictures.rglob("*"))
    with forking_python(bench, tmp_path) as python:
        monkeypatch.setattr(sys, "executable", str(python))
        code = main(["doctor", *bench.words(home, resume=None, progress_seconds=None, torch_threads=1), "--deep"])
    page = capsys.readouterr().out
    assert code == 0, page
    assert "a checkpoint was written, resumed from and verified" in page
    assert "as large as a checkpoint, are written and read back" in page
    assert sorted(bench.pictures.rglob("*")) == before
    assert not home.exists()
    with scratch_folder() as scratch:
        left = [path for path in scratch.parent.glob(f"{SCRATCH_PREFIX}{os.getpid()}-*") if path != scratch]
    assert left == []
