"""The process ends between any two calls by which a run changes its home, and is resumed each time."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests

SHARDS = 8
# Hints: written by the heartbeat whenever it comes by, so which of them happen in a run is a matter of timing.
HINTS = re.compile(r"(status|metrics)/")
LIMITED = {"checkpoints_total_limit": 1}


@pytest.fixture(scope="session")
def first_start(bench: Bench) -> list[CrashPoint]:
    """Every write of a run from its first start to its end, by call, path and how often."""
    record = bench.folder / "writes.txt"
    process = bench.start(bench.folder / "recorded", record=record, **LIMITED)
    assert process.wait() == 0, process.output()
    return crash_points(record)


@pytest.fixture(scope="session")
def interrupted(bench: Bench) -> Path:
    """A home whose attempt was killed while it deleted what its second commit had retired."""
    home = bench.folder / "interrupted"
    crash = CrashPoint(call="unlink", path="checkpoint-2/trainer_state.json")
    process = bench.start(home, crash=crash, **LIMITED)
    assert process.wait() == KILLED
    return home


@pytest.fixture(scope="session")
def second_start(bench: Bench, interrupted: Path) -> list[CrashPoint]:
    """Every write of a start that takes an interrupted run over: adopt, tidying, saves, the end."""
    home, record = bench.folder / "recorded-again", bench.folder / "writes-again.txt"
    shutil.copytree(interrupted, home)
    process = bench.start(home, record=record, **LIMITED)
    assert process.wait() == 0, process.output()
    return crash_points(record)


def crash_points(record: Path) -> list[CrashPoint]:
    seen: Counter[str] = Counter()
    points: list[CrashPoint] = []
    for line in record.read_text().splitlines():
        call, _, path = line.partition(" ")
        # What fsync does can't be seen by a process that comes after; the user's own cache is no part of a home.
        if call == "fsync" or HINTS.match(path) or "probe" in path or path.startswith(".."):
            continue
        # Taking a temporary's name away shows nowhere: before it is after the link, after it before the next call.
        if (call, path) == ("unlink", ".tmp"):
            continue
        seen[line] += 1
        points.append(CrashPoint(call=call, path=path, nth=seen[line]))
    # What a home is after a call it is before the next one: only the last call has no next.
    points.append(replace(points[-1], when="after"))
    return points


def test_every_name_is_given_to_synced_bytes_and_then_synced_itself(
    bench: Bench, first_start: list[CrashPoint]
) -> None:
    """What a power cut needs: fsync of the temporary, the name, fsync of the folder, for each durable key."""
    lines = [line.split(" ", 1) for line in (bench.folder / "writes.txt").read_text().splitlines()]
    durable = [(number, path) for number, (call, path) in enumerate(lines) if _names_a_durable_key(call, path)]
    assert len(durable) > 20
    for number, path in durable:
        before = lines[max(0, number - 12) : number]
        folder = str(Path(path).parent)
        after = lines[number + 1 : number + 12]
        assert ["fsync", ".tmp"] in before, f"{path} was named before its bytes were synced"
        assert ["fsync", folder] in after, f"{folder} was not synced after {path} was named"


def _names_a_durable_key(call: str, path: str) -> bool:
    return call in ("link", "replace") and not HINTS.match(path) and not path.startswith((".", "control"))


@pytest.mark.parametrize("shard", range(SHARDS))
def test_end_at_every_write_of_a_first_start(
    shard: int, bench: Bench, first_start: list[CrashPoint], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    assert len(first_start) > 25
    for number, point in enumerate(first_start[shard::SHARDS]):
        crash_and_resume(bench, tmp_path / f"home-{number}", point, undisturbed)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_end_at_every_write_of_a_take_over(
    shard: int,
    bench: Bench,
    interrupted: Path,
    second_start: list[CrashPoint],
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    assert len(second_start) > 12
    for number, point in enumerate(second_start[shard::SHARDS]):
        home = tmp_path / f"home-{number}"
        shutil.copytree(interrupted, home)
        crash_and_resume(bench, home, point, undisturbed)


def crash_and_resume(bench: Bench, home: Path, point: CrashPoint, undisturbed: Undisturbed) -> None:
    code = bench.start(home, crash=point, **LIMITED).wait()
    assert code == KILLED, f"{point}: never reached (exit code {code})"
    # A first start that died early left a home without run.json, or one without a commit: both are a fresh start.
    committed = committed_steps(home) if (home / "run.json").exists() else []
    resumed = bench.run(home, **LIMITED)
    assert result_digests(home) == undisturbed(**LIMITED), f"{point}: other bytes\n{resumed.output()[-2000:]}"
    commits = [entry.body.step for entry in log_of(home).entries if entry.body.kind == "checkpoint"]
    assert not committed or commits.count(committed[-1]) == 1, f"{point}: a committed step was trained again"
    left = sorted({path.parent.name for path in home.glob("checkpoint-*/*")})
    assert len(left) == 1, f"{point}: retired or orphaned data was left behind: {left}"
