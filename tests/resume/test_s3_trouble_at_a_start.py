"""Storage that refuses or does not answer at a start is no empty home, and the log is never taken for a shorter one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.fault_proxy import FaultProxy, What
from tests.fakes.s3_server import S3Server
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests
from tests.resume.s3_home import S3Home

RUN = {"max_train_steps": 6, "checkpointing_steps": 2}
IMPATIENT = {
    "dreambooth_resume.storage.patience:PATIENCE_SECONDS": 3.0,
    "dreambooth_resume.storage.patience:_FIRST_WAIT_SECONDS": 0.1,
    "dreambooth_resume.storage.s3_address:S3Settings.operation_seconds": 0.5,
    "dreambooth_resume.storage.s3_address:S3Settings.read_seconds": 0.3,
}
REFUSALS = {
    "403": (403, "AccessDenied"),
    "unsigned": (401, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
    "clock": (403, "RequestTimeTooSkewed"),
    "unknown key": (403, "InvalidAccessKeyId"),
}
READS = [
    ("GET", "run.json"),
    ("LIST", "log/"),
    ("GET", "log/00000002.json"),
    ("GET", "checkpoint-*"),
    ("LIST", "checkpoint-"),
]


@pytest.fixture(scope="session")
def killed_at_four(bench: Bench, s3_server: S3Server) -> S3Home:
    """A run of 6 steps that was killed with checkpoints of steps 2 and 4."""
    for number in range(5):
        home = S3Home.new(s3_server.url)
        crash = CrashPoint(call="PUT", path="log/00000004.json")
        stage = bench.folder / f"s3-killed-at-four-{number}"
        assert bench.start(stage, crash=crash, **RUN, **home.options()).wait() == KILLED
        if committed_steps(home.storage) == [2, 4]:
            return home
    raise AssertionError("a save always took the place of another")


@pytest.fixture
def begun(killed_at_four: S3Home) -> S3Home:
    return killed_at_four.copy()


def is_as_before(home: S3Home, before: dict[str, bytes]) -> None:
    """Nothing committed is gone or changed, nothing was trained or committed, and no run was begun."""
    now = home.bodies()
    assert {key: now.get(key) for key in before} == before
    kinds = [entry.body.kind for entry in log_of(home.storage).entries[3:]]
    assert kinds in ([], ["adopt"]), "asking again adopts nothing again"


@pytest.mark.parametrize(("verb", "key"), READS)
@pytest.mark.parametrize("why", REFUSALS)
def test_refused_at_a_start_it_ends_as_no_access(
    why: str, verb: str, key: str, bench: Bench, begun: S3Home, proxy: FaultProxy, tmp_path: Path
) -> None:
    before, (status, code) = begun.bodies(), REFUSALS[why]
    proxy.add(What.ANSWER, verb=verb, key=begun.pattern(key), times=None, status=status, code=code)
    process = bench.start(tmp_path / "stage", limits=IMPATIENT, **RUN, **begun.options(through=proxy.url))
    assert process.wait() == 77, process.output()
    assert "step " not in process.output().replace("steps", "")
    is_as_before(begun, before)


@pytest.mark.parametrize(("verb", "key"), READS)
@pytest.mark.parametrize("what", [What.ANSWER, What.BLACKHOLE, What.CUT_DOWNLOAD])
def test_without_an_answer_at_a_start_it_asks_again_and_then_ends_as_come_back(
    what: What, verb: str, key: str, bench: Bench, begun: S3Home, proxy: FaultProxy, tmp_path: Path
) -> None:
    before = begun.bodies()
    proxy.add(what, verb=verb, key=begun.pattern(key), times=None, seconds=1.0)
    process = bench.start(tmp_path / "stage", limits=IMPATIENT, **RUN, **begun.options(through=proxy.url))
    assert process.wait() == 75, process.output()
    # A download that breaks off is gone on with by itself, which may take all the patience that there is here.
    assert "Asking again in" in process.output() or what is What.CUT_DOWNLOAD
    assert "step 5/" not in process.output()
    is_as_before(begun, before)


def test_storage_that_comes_back_while_it_asks_again_is_used(
    bench: Bench, begun: S3Home, undisturbed: Undisturbed, proxy: FaultProxy, tmp_path: Path
) -> None:
    proxy.add(What.ANSWER, verb="LIST", key=begun.pattern("log/"), times=None, status=503)
    limits = {**IMPATIENT, "dreambooth_resume.storage.patience:PATIENCE_SECONDS": 60.0}
    process = bench.start(tmp_path / "stage", limits=limits, **RUN, **begun.options(through=proxy.url))
    process.wait_for(lambda: "Asking again in" in process.output(), "asking again")
    proxy.clear()
    assert process.wait() == 0, process.output()
    assert "Resuming from checkpoint-4" in process.output() or "attempt 1 had written" in process.output()
    assert result_digests(begun.storage) == undisturbed(**RUN)


def test_listings_that_lag_behind_make_the_log_no_shorter(
    bench: Bench, begun: S3Home, undisturbed: Undisturbed, proxy: FaultProxy, tmp_path: Path
) -> None:
    """What was written last shows in no listing; the log is asked for the numbers after those that are listed."""
    for entry in (1, 2, 3):
        proxy.state.put_keys.append(f"{begun.uri.partition('/runs/')[2]}".join(["runs/", f"/log/{entry:08d}.json"]))
    hidden = proxy.add(What.HIDE_NEWEST, verb="LIST", key=begun.pattern("log/"), times=None, count=3)
    bench.run(tmp_path / "stage", **RUN, **begun.options(through=proxy.url))
    assert hidden.acted >= 1
    log = log_of(begun.storage)
    assert [entry.body.step for entry in log.entries if entry.body.kind == "checkpoint"] == [2, 4, 6]
    assert result_digests(begun.storage) == undisturbed(**RUN)


@pytest.mark.parametrize("key", ["log/00000002.json", "checkpoint-4/trainer_state.safetensors", "run.json"])
def test_damaged_on_its_way_once_it_is_read_again(
    key: str, bench: Bench, begun: S3Home, undisturbed: Undisturbed, proxy: FaultProxy, tmp_path: Path
) -> None:
    """A bit that flips on the way is no damage of the home: nothing is set aside for it, and no run ends."""
    damaged = proxy.add(What.CORRUPT_DOWNLOAD, verb="GET", key=begun.pattern(key))
    process = bench.run(tmp_path / "stage", **RUN, **begun.options(through=proxy.url))
    assert damaged.acted == 1
    assert log_of(begun.storage).set_aside == {}, process.output()
    assert result_digests(begun.storage) == undisturbed(**RUN)


def test_damaged_whenever_it_is_read_it_is_set_aside_and_said(
    bench: Bench, begun: S3Home, undisturbed: Undisturbed, proxy: FaultProxy, tmp_path: Path
) -> None:
    key = begun.pattern("checkpoint-4/trainer_state.safetensors")
    proxy.add(What.CORRUPT_DOWNLOAD, verb="GET", key=key, times=None)
    process = bench.run(tmp_path / "stage", **RUN, **begun.options(through=proxy.url))
    assert "Set aside: checkpoint-4: trainer_state.safetensors is not what was written" in process.output()
    assert begun.storage.list("checkpoint-4/"), "what is damaged is never deleted"
    assert result_digests(begun.storage) == undisturbed(**RUN)
