"""Storage that fails while it is trained: an alarm and not the end; commits catch up; nothing wrong is committed."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.fakes.fault_proxy import FaultProxy, What, shared_proxy
from tests.fakes.s3_server import S3Server
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, committed_steps, log_of, result_digests, shown_step
from tests.resume.s3_home import S3Home

LONG = {"max_train_steps": 60, "checkpointing_steps": 2, "train_batch_size": 1}
MIDDLE = {**LONG, "max_train_steps": 30}
SHORT = {"max_train_steps": 4, "checkpointing_steps": 2}
IMPATIENT = {
    "dreambooth_resume.storage.s3_address:S3Settings.operation_seconds": 0.3,
    "dreambooth_resume.storage.s3_address:S3Settings.read_seconds": 0.3,
    "dreambooth_resume.storage.s3:S3Storage.hint_interval_seconds": 0.1,
    "dreambooth_resume.checkpoint.manager:CheckpointManager.retry_seconds": 0.2,
}
REFUSED = {"status": 403, "code": "AccessDenied"}
EXPIRED = {"status": 400, "code": "ExpiredToken"}
SLOW_DOWN = {"status": 503, "code": "SlowDown"}


def alarm_in_status(home: S3Home) -> str | None:
    alarm: str | None = json.loads(home.storage.read("status/0001.json"))["alarm"]
    return alarm


@pytest.mark.parametrize("answer", [SLOW_DOWN, REFUSED, EXPIRED], ids=lambda answer: str(answer["code"]))
def test_saves_that_fail_are_an_alarm_and_commits_catch_up(
    answer: dict[str, object],
    bench: Bench,
    undisturbed: Undisturbed,
    s3_home: S3Home,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    process = bench.start(tmp_path / "stage", limits=IMPATIENT, **LONG, **s3_home.options(through=proxy.url))
    process.wait_for(lambda: len(committed_steps(s3_home.storage)) >= 2, "two commits")
    proxy.add(What.ANSWER, verb="PUT", key=s3_home.pattern("checkpoint-*"), times=None, **answer)
    process.wait_for(lambda: alarm_in_status(s3_home) is not None, "an alarm in the status")
    before, durable = shown_step(process.output()), committed_steps(s3_home.storage)
    process.wait_for_step(min(before + 5, LONG["max_train_steps"]))
    assert committed_steps(s3_home.storage) == durable
    assert "checkpoint-" in (alarm_in_status(s3_home) or "")
    assert f"NOT SAVED since step {durable[-1]}: Could not write" in process.output()
    proxy.clear()
    process.wait_for(lambda: committed_steps(s3_home.storage)[-1] > durable[-1], "a commit that catches up")
    assert process.wait() == 0, process.output()
    assert alarm_in_status(s3_home) is None
    assert log_of(s3_home.storage).highest_attempt == 1
    assert result_digests(s3_home.storage) == undisturbed(**LONG)


def test_no_storage_at_all_for_a_while_and_the_final_save_waits(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, proxy: FaultProxy, tmp_path: Path
) -> None:
    changed = {**LONG, "max_train_steps": 20}
    process = bench.start(tmp_path / "stage", limits=IMPATIENT, **changed, **s3_home.options(through=proxy.url))
    process.wait_for(lambda: len(committed_steps(s3_home.storage)) >= 1, "a commit")
    proxy.add(What.RESET, times=None)
    process.wait_for(lambda: "Saving the last step." in process.output(), "the last step")
    time.sleep(1.0)
    assert process.poll() is None, process.output()
    assert log_of(s3_home.storage).finished is None
    proxy.clear()
    assert process.wait() == 0, process.output()
    assert result_digests(s3_home.storage) == undisturbed(**changed)


@pytest.mark.parametrize("machine", ["the same machine", "another machine"])
def test_killed_while_storage_is_away(
    machine: str, bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, proxy: FaultProxy, tmp_path: Path
) -> None:
    """What lies on this machine is taken in place of training it again; elsewhere it is trained: the same bytes."""
    process = bench.start(tmp_path / "one", limits=IMPATIENT, **MIDDLE, **s3_home.options(through=proxy.url))
    process.wait_for(lambda: len(committed_steps(s3_home.storage)) >= 2, "two commits")
    proxy.add(What.RESET, times=None)
    staged = tmp_path / "one" / "staged"
    durable = committed_steps(s3_home.storage)[-1]

    def is_staged() -> bool:
        states = [path.parent.name for path in staged.glob("*/checkpoint-*/trainer_state.json")]
        return any(int(name.removeprefix("checkpoint-")) > durable + 4 for name in states)

    process.wait_for(is_staged, "a state that is kept on this machine")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    proxy.clear()
    durable = committed_steps(s3_home.storage)[-1]
    stage = tmp_path / ("one" if machine == "the same machine" else "two")
    resumed = bench.start(stage, limits=IMPATIENT, **MIDDLE, **s3_home.options())
    assert resumed.wait() == 0, resumed.output()
    is_taken = "Resuming from what attempt 1 had written and not yet committed" in resumed.output()
    assert is_taken == (machine == "the same machine"), resumed.output()
    trained_again = f"step {durable + 1}/" in resumed.output()
    assert trained_again == (machine == "another machine")
    assert list(staged.glob("*/checkpoint-*")) == [] or machine == "another machine", "it was committed: room is made"
    assert result_digests(s3_home.storage) == undisturbed(**MIDDLE)


def test_what_is_staged_is_of_no_use_once_another_machine_went_on(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Attempt 1 left a state here, attempt 2 went on elsewhere; attempt 3 is here, and goes on from attempt 2."""
    process = bench.start(tmp_path / "one", limits=IMPATIENT, **MIDDLE, **s3_home.options(through=proxy.url))
    process.wait_for(lambda: len(committed_steps(s3_home.storage)) >= 2, "two commits")
    proxy.add(What.RESET, times=None)
    staged = tmp_path / "one" / "staged"
    process.wait_for(lambda: any(staged.glob("*/checkpoint-*/trainer_state.json")), "a state kept on this machine")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    before = len(log_of(s3_home.storage).entries)
    second = bench.start(tmp_path / "two", limits=IMPATIENT, **MIDDLE, **s3_home.options())
    second.wait_for(lambda: len(log_of(s3_home.storage).entries) >= before + 3, "two commits of its own")
    second.send(signal.SIGKILL)
    assert second.wait() == KILLED
    third = bench.start(tmp_path / "one", limits=IMPATIENT, **MIDDLE, **s3_home.options())
    assert third.wait() == 0, third.output()
    assert "attempt 1 had written" not in third.output()
    assert result_digests(s3_home.storage) == undisturbed(**MIDDLE)


@pytest.mark.parametrize("checksums", ["ignored", "kept", "verified"])
@pytest.mark.parametrize("key", ["checkpoint-2/trainer_state.safetensors", "checkpoint-4/pytorch_lora_weights*"])
def test_a_bit_flips_in_an_upload_and_is_never_committed(
    key: str,
    checksums: str,
    bench: Bench,
    undisturbed: Undisturbed,
    s3_server: S3Server,
    s3_home: S3Home,
    tmp_path: Path,
) -> None:
    """Whatever the service does with a checksum: it ignores it, keeps it unseen (as moto does), or verifies it."""
    proxy = shared_proxy(s3_server.port, checksums)  # type: ignore[arg-type]
    flipped = proxy.add(What.CORRUPT_UPLOAD, verb="PUT", key=s3_home.pattern(key), times=2)
    process = bench.start(tmp_path / "stage", limits=IMPATIENT, **SHORT, **s3_home.options(through=proxy.url))
    assert process.wait() == 0, process.output()
    proxy.clear()
    assert flipped.acted >= 1
    checked = bench.command(
        tmp_path / "verify", ["checkpoints", "verify", s3_home.uri, "--s3_endpoint_url", s3_home.server_url]
    )
    assert checked.wait() == 0, checked.output()
    assert result_digests(s3_home.storage) == undisturbed(**SHORT)


def test_a_busy_service_costs_time_and_nothing_else(
    bench: Bench, undisturbed: Undisturbed, s3_home: S3Home, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A third of all requests is refused with SlowDown, some connections break, some answers are lost."""
    proxy.add(What.ANSWER, conditional=False, every=3, **SLOW_DOWN)
    proxy.add(What.CUT_UPLOAD, verb="PUT", conditional=False, every=5)
    proxy.add(What.DROP_ANSWER, verb="PUT", conditional=False, every=5)
    bench.run(tmp_path / "stage", **SHORT, **s3_home.options(through=proxy.url))
    assert result_digests(s3_home.storage) == undisturbed(**SHORT)
