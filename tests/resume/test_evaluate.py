"""An evaluation that is killed goes on with the next picture, and ends in the bytes of one that was left alone."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from dreambooth_resume.insight.evaluation import read_evaluations
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.scorers import build_clip, build_dino
from tests.resume.harness import KILLED, Bench, CrashPoint

PICTURES = 8


def records(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted((home / "eval").rglob("*.json"))}


@pytest.fixture
def words(bench: Bench, tmp_path: Path) -> list[str]:
    dino, clip = build_dino(tmp_path / "dino"), build_clip(tmp_path / "clip", bench.model / "tokenizer")
    return ["--num-images", "1", "--inference-steps", "1", "--dino-model", str(dino), "--clip-model", str(clip)]


def test_a_killed_evaluation_ends_in_the_same_numbers(
    bench: Bench, home: Path, tmp_path: Path, words: list[str]
) -> None:
    bench.run(home, max_train_steps=4)
    alone = tmp_path / "alone"
    shutil.copytree(home, alone)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    undisturbed = bench.command(alone, ["eval", str(alone), *words])
    assert undisturbed.wait() == 0, undisturbed.output()
    expected = records(alone)
    assert len(expected) == 1 + PICTURES
    key = next(iter(expected)).split("/")[1]

    for when, place in (("before", 2), ("after", 3)):
        crash = CrashPoint(call="link", path=f"eval/{key}/checkpoint-2/{place:04d}.json", when=when)
        killed = bench.command(home, ["eval", str(home), *words], crash=crash)
        assert killed.wait() == KILLED, killed.output()
        assert len(records(home)) == 1 + place + (when == "after")
    told = bench.command(home, ["eval", str(home), *words])
    told.wait_for(lambda: "checkpoint-4: picture 1" in told.output(), "the second checkpoint")
    told.send(signal.SIGTERM)
    assert told.wait() in (0, 75), told.output()
    assert "checkpoint-2: picture" not in told.output()
    assert "4 of 8 pictures are scored already" in told.output()

    # A record that was damaged counts as none.
    damaged = home / f"eval/{key}/checkpoint-2/0001.json"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    last = bench.command(home, ["eval", str(home), *words])
    assert last.wait() == 0, last.output()
    assert "The best is checkpoint-" in last.output()
    assert records(home) == expected
    (found,) = read_evaluations(LocalStorage(home))
    assert [one.step for one in found.scores] == [2, 4]
    assert all(one.is_whole and set(one.values) == {"dino", "clip-i", "clip-t"} for one in found.scores)
    assert {path: path.read_bytes() for path in before} == before
