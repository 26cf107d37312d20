"""An evaluation that is killed goes on with the next picture, and ends in the bytes of one that was left alone."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from dreambooth_resume.insight.evaluation import read_evaluations
from dreambooth_resume.runs.curves import read_curve
from dreambooth_resume.runs.entries import Commit
from dreambooth_resume.runs.notes import read_notes
from dreambooth_resume.storage.local import LocalStorage
from tests.fakes.scorers import build_clip, build_dino
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests

PICTURES = 8


def records(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted((home / "eval").rglob("*.json"))}


@pytest.fixture
def words(bench: Bench, tmp_path: Path) -> list[str]:
    dino, clip = build_dino(tmp_path / "dino"), build_clip(tmp_path / "clip", bench.model / "tokenizer")
    return ["--num-images", "1", "--inference-steps", "1", "--dino-model", str(dino), "--clip-model", str(clip)]


@pytest.mark.timeout(300)  # four processes that load four models each
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

    crash = CrashPoint(call="link", path=f"eval/{key}/checkpoint-2/0003.json")
    killed = bench.command(home, ["eval", str(home), *words], crash=crash)
    assert killed.wait() == KILLED, killed.output()
    assert len(records(home)) == 1 + 3
    told = bench.command(home, ["eval", str(home), *words])
    told.wait_for(lambda: "checkpoint-4: picture 1" in told.output(), "the second checkpoint")
    told.send(signal.SIGTERM)
    assert told.wait() in (0, 75), told.output()
    assert told.output().count("checkpoint-2: picture") == 1
    assert "3 of 8 pictures are scored already" in told.output()

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
    assert sorted(note.text.split(":")[0] for note in read_notes(LocalStorage(home), "score")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    assert {path: path.read_bytes() for path in before} == before


def test_the_best_checkpoint_stays_over_kills_and_no_byte_of_the_run_depends_on_it(
    bench: Bench, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    held_out = tmp_path / "held-out"
    shutil.copytree(bench.pictures, held_out)
    judged: dict[str, object] = {
        "validation_data_dir": held_out, "validation_steps": 1, "checkpointing_steps": 1,
        "checkpoints_total_limit": 1, "keep_best": True,
    }  # fmt: skip
    killed = bench.start(home, **judged)
    killed.wait_for_step(4)
    killed.send(signal.SIGKILL)
    assert killed.wait() == KILLED
    bench.run(home, **judged)
    losses = {point.step: point.val_loss for point in read_curve(LocalStorage(home)).points}
    assert None not in losses.values()
    # The kill may have come before a step was saved: what is kept is then the best of those that were.
    saved = {entry.body.step for entry in log_of(home).entries if isinstance(entry.body, Commit)}
    best_saved = min(saved, key=lambda step: (losses[step], step))
    assert set(committed_steps(home)) == {best_saved, 6}
    assert result_digests(home) == undisturbed()
