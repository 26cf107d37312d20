"""A signal at a random moment of every phase, a kill a second later, and a bucket that is slow: nothing is lost.

Also while another attempt is waited for: that one never notices.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from dreambooth_resume.runs.history import read_history
from tests.fakes.fault_proxy import FaultProxy, What
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, Process, committed_steps, result_digests
from tests.resume.s3_home import S3Home

PHASES = ("Home s3://", "making class pictures", "encoding", "step 2/", "validation pictures", "Saving the last step")
GRACE_SECONDS = 1.0
OPTIONS: dict[str, object] = {
    "with_prior_preservation": True,
    "class_prompt": "a photo of a robot",
    "num_class_images": 2,
    "train_batch_size": 1,
    "validation_prompt": "a red toy",
    "num_validation_images": 1,
    "validation_steps": 4,
    "max_train_steps": 10,
    "checkpointing_steps": 2,
}
FEW_STEPS = {
    "dreambooth_resume.training.preview:INFERENCE_STEPS": 3,
    "dreambooth_resume.training.preview:FINAL_INFERENCE_STEPS": 2,
    "dreambooth_resume.storage.s3:S3Storage.hint_interval_seconds": 0.2,
}


def reaches(process: Process, words: str) -> bool:
    """Whether the process comes to say that; it may have done that part in an earlier life."""
    while process.poll() is None:
        if words in process.output():
            return True
        time.sleep(0.005)
    return False


def leave(process: Process) -> int:
    """SIGTERM, and a second later SIGKILL: what Kubernetes or a cheap cloud does. The exit code."""
    process.send(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while (code := process.poll()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if code is None:
        process.send(signal.SIGKILL)
        code = process.wait()
    return code


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_signal_in_every_phase_and_a_kill_a_second_later(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.add(What.RATE, verb="PUT", key=s3_home.pattern("checkpoint-*"), times=None, bytes_per_second=300_000)
    moments, met = random.Random(20261127), []
    for phase in PHASES:
        process = bench.start(tmp_path / "stage", limits=FEW_STEPS, **OPTIONS, **s3_home.options(through=proxy.url))  # type: ignore[arg-type]
        if reaches(process, phase):
            met.append(phase)
            time.sleep(moments.uniform(0.0, 0.3))
        code = leave(process) if process.poll() is None else process.wait()
        assert code in (75, KILLED, 0), f"{phase}:\n{process.output()}"
        assert "bug in dbr" not in process.output(), process.output()
    proxy.clear()
    assert len(met) >= 5, met
    last = bench.start(tmp_path / "stage", limits=FEW_STEPS, **OPTIONS, **s3_home.options())  # type: ignore[arg-type]
    assert last.wait() == 0, last.output()
    assert result_digests(s3_home.storage)["result"] == undisturbed(**OPTIONS)["result"]
    assert all(attempt.ending in ("stopped", "lost", "finished") for attempt in read_history(s3_home.storage))
    assert committed_steps(s3_home.storage)[-1] == 10


def test_a_signal_while_another_attempt_is_waited_for_ends_the_waiting_alone(bench: Bench, home: Path) -> None:
    first = bench.start(home, max_train_steps=400, checkpointing_steps=1000)
    first.wait_for_step(2)
    second = bench.start(home, max_train_steps=400, checkpointing_steps=1000)
    second.wait_for(lambda: "Waiting up to" in second.output(), "the waiting")
    second.send(signal.SIGTERM)
    assert second.wait(10) == 75, second.output()
    assert "SIGTERM" in second.output()
    assert first.poll() is None
    first.send(signal.SIGKILL)
    assert first.wait() == KILLED
