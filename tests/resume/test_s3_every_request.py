"""The process ends at every request by which a run changes its bucket, and an empty machine goes on each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.fakes.s3_server import BUCKET, S3Server
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests
from tests.resume.s3_home import S3Home

SHARDS = 4
# One save in the background and the last one, so that which saves are made is not a matter of timing.
FIRST = {"max_train_steps": 4, "checkpointing_steps": 2, "checkpoints_total_limit": 1}
AGAIN = {"max_train_steps": 6, "checkpointing_steps": 2, "checkpoints_total_limit": 1}
HINTS = ("status/", "metrics/")
IN_PARTS = {"dreambooth_resume.storage.s3_address:S3Settings.in_parts_above_bytes": 50_000}
_TRIES = 5


def crash_points(record: Path) -> list[CrashPoint]:
    """After each request that changes the bucket, and before the first of all.

    Before the next change, and at all that only reads until then, the bucket is what it was after this one: a process
    that ends there leaves nothing else to the next machine.
    """
    seen: Counter[str] = Counter()
    first, *_ = record.read_text().splitlines()
    points = [CrashPoint(call=first.partition(" ")[0], path=first.partition(" ")[2])]
    for line in record.read_text().splitlines():
        call, path = line.rsplit(" ", 1)
        if call.split()[0] in ("GET", "HEAD", "LIST"):
            continue
        seen[line] += 1
        if path.startswith(HINTS) and seen[line] > 1:
            continue  # the heartbeat writes it whenever it comes by
        points.append(CrashPoint(call=call, path=path, nth=seen[line], when="after"))
    return points


@pytest.fixture(scope="session")
def first_start(bench: Bench, s3_server: S3Server) -> list[CrashPoint]:
    """Every change of a run from its first start to its end."""
    record, home = bench.folder / "requests.txt", S3Home.new(s3_server.url)
    process = bench.start(bench.folder / "s3-recorded", record=record, **FIRST, **home.options())
    assert process.wait() == 0, process.output()
    return crash_points(record)


@pytest.fixture(scope="session")
def interrupted(bench: Bench, s3_server: S3Server) -> S3Home:
    """A home whose attempt was killed before it deleted what its second commit had retired."""
    crash = CrashPoint(call="PUT", path="log/00000003.json", when="after")
    for number in range(_TRIES):
        home = S3Home.new(s3_server.url)
        stage = bench.folder / f"s3-interrupted-{number}"
        assert bench.start(stage, crash=crash, **AGAIN, **home.options()).wait() == KILLED
        if committed_steps(home.storage) == [4]:  # on a busy machine a save may have taken the place of this one
            return home
    raise AssertionError("the second commit was never that of step 4")


@pytest.fixture(scope="session")
def second_start(bench: Bench, interrupted: S3Home) -> list[CrashPoint]:
    """Every change of a start that takes an interrupted run over: adopt, tidying, saves, the end."""
    record, home = bench.folder / "requests-again.txt", interrupted.copy()
    process = bench.start(bench.folder / "s3-recorded-again", record=record, **AGAIN, **home.options())
    assert process.wait() == 0, process.output()
    return crash_points(record)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_end_at_every_request_of_a_first_start(
    shard: int,
    bench: Bench,
    s3_server: S3Server,
    first_start: list[CrashPoint],
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    assert len(first_start) > 30
    for number, point in enumerate(first_start[shard::SHARDS]):
        home = S3Home.new(s3_server.url)
        crash_and_resume(bench, home, tmp_path / str(number), point, FIRST, undisturbed)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_end_at_every_request_of_a_take_over(
    shard: int,
    bench: Bench,
    interrupted: S3Home,
    second_start: list[CrashPoint],
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    assert len(second_start) > 15
    for number, point in enumerate(second_start[shard::SHARDS]):
        crash_and_resume(bench, interrupted.copy(), tmp_path / str(number), point, AGAIN, undisturbed)


@pytest.mark.parametrize(
    ("call", "when"), [("POST begin", "after"), ("PUT part", "after"), ("POST complete", "before")]
)
def test_end_in_an_upload_in_parts(
    call: str, when: str, bench: Bench, s3_home: S3Home, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """What was sent of it shows nowhere, and the next attempt has the service drop it."""
    point = CrashPoint(call=call, path="checkpoint-2/trainer_state.safetensors", when=when)
    crash_and_resume(bench, s3_home, tmp_path / "run", point, FIRST, undisturbed, limits=IN_PARTS)
    assert unfinished_uploads(s3_home) == []


def crash_and_resume(
    bench: Bench,
    home: S3Home,
    folder: Path,
    point: CrashPoint,
    changed: Mapping[str, object],
    undisturbed: Undisturbed,
    *,
    limits: Mapping[str, float] | None = None,
) -> None:
    options = {**changed, **home.options()}
    folder.mkdir()
    code = bench.start(folder / "stage", crash=point, limits=limits, **options).wait()
    assert code == KILLED, f"{point}: never reached (exit code {code})"
    committed = committed_steps(home.storage)
    resumed = bench.start(folder / "another-machine", limits=limits, **options)
    assert resumed.wait() == 0, f"{point}: {resumed.output()[-3000:]}"
    assert result_digests(home.storage) == undisturbed(**changed), f"{point}: other bytes\n{resumed.output()[-2000:]}"
    log = log_of(home.storage)
    commits = [entry.body.step for entry in log.entries if entry.body.kind == "checkpoint"]
    assert not committed or commits.count(committed[-1]) == 1, f"{point}: a committed step was trained again"
    left = {found.key.partition("/")[0] for found in home.storage.list("checkpoint-")}
    assert len(left) == 1, f"{point}: retired or orphaned data was left behind: {left}"


def unfinished_uploads(home: S3Home) -> list[str]:
    import boto3

    client = boto3.client("s3", endpoint_url=home.server_url)
    prefix = home.uri.removeprefix(f"s3://{BUCKET}/")
    found = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", [])
    return [upload["Key"] for upload in found]
