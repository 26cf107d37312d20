"""A run that Diffusers' own script began goes on here, through a kill before its first commit and after."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dreambooth_resume.runs.record import read_record
from dreambooth_resume.storage.local import LocalStorage
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests


@pytest.fixture(scope="session")
def script_checkpoint(bench: Bench) -> Path:
    """Made in another process: this one has to stay free of tensor operations."""
    output = bench.folder / "script"
    made = bench.command(output, [str(bench.model), str(output)], program="tests.fakes.diffusers_script:main")
    assert made.wait() == 0, made.output()
    return output / "checkpoint-3"


def test_it_goes_on_to_the_same_bytes_however_often_it_is_killed(
    bench: Bench, script_checkpoint: Path, home: Path
) -> None:
    whole = home.with_name("whole")
    process = bench.run(whole, resume=script_checkpoint)
    assert "Attempt 1 begins at step 3 of 6." in process.output()
    assert f"Taken from {script_checkpoint}: 160 LoRA matrices" in process.output()
    assert log_of(whole).commit(log_of(whole).line[0]).step == 3
    before = CrashPoint(call="link", path="log/00000002.json")
    assert bench.start(home, crash=before, resume=script_checkpoint).wait() == KILLED
    assert committed_steps(home) == []
    refused = bench.start(home)
    assert refused.wait() == 78, "latest would begin at step 0"
    assert f"Give it again: --resume_from_checkpoint {script_checkpoint}" in refused.output()
    after = CrashPoint(call="replace", path="checkpoint-6-a2/trainer_state.json")
    assert bench.start(home, crash=after, resume=script_checkpoint).wait() == KILLED
    assert committed_steps(home)[0] == 3
    # The same command means latest now, and the folder is needed no more.
    moved = script_checkpoint.with_name("checkpoint-3")
    bench.run(home, resume=moved)
    assert result_digests(home) == result_digests(whole)
    record = read_record(LocalStorage(home))
    assert record is not None
    assert record.seeded_from is not None
    assert record.seeded_from.step == 3


def test_what_is_no_such_checkpoint_is_refused_before_anything_is_written(
    bench: Bench, script_checkpoint: Path, home: Path, tmp_path: Path
) -> None:
    def refused(folder: Path, what: str, **changed: object) -> None:
        process = bench.start(home, resume=folder, **changed)
        assert process.wait() == 2
        assert what in process.output()
        assert not (home / "run.json").exists()

    refused(tmp_path / "checkpoint-9", "there is no such folder")
    part = shutil.copytree(script_checkpoint, tmp_path / "checkpoint-3")
    (part / "optimizer.bin").unlink()
    refused(part, "has no optimizer.bin")
    refused(script_checkpoint, "the run has made 3 steps already", max_train_steps=3)
    refused(script_checkpoint, "the checkpoint has rank 4", rank=8)
    other = tmp_path / "other"
    bench.run(other, max_train_steps=2)
    refused(other / "checkpoint-2", "is a checkpoint of dbr, and a run resumes from its home")
    process = bench.start(other, resume=script_checkpoint)
    assert process.wait() == 2
    assert "which did not begin from that checkpoint" in process.output()
