"""A resume with other options: shown, applied, refused, or allowed, and kept in the log; and killed in the middle."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dreambooth_resume.runs.entries import Adopt
from tests.resume.harness import KILLED, Bench, CrashPoint, log_of, result_digests

SCHEDULE = {"lr_scheduler": "cosine", "lr_warmup_steps": 1}


@pytest.fixture(scope="session")
def four_steps(bench: Bench) -> Path:
    """A finished run of 4 steps on a cosine schedule."""
    home = bench.folder / "four-steps"
    bench.run(home, max_train_steps=4, **SCHEDULE)
    return home


def test_a_refused_change_is_shown_in_a_table_and_ends_with_2(bench: Bench, four_steps: Path, home: Path) -> None:
    shutil.copytree(four_steps, home)
    entries = len(log_of(home).entries)
    process = bench.start(home, **SCHEDULE, random_flip=True, learning_rate=5e-4, max_train_steps=4)
    assert process.wait() == 2
    assert (
        "  random_flip    false        true    --random_flip    refused: start a new run for other" in process.output()
    )
    assert "  learning_rate  0.001        0.0005  --learning_rate  applied: the schedule" in process.output()
    assert "add --allow_change random_flip to go on" in process.output()
    assert len(log_of(home).entries) == entries


def test_allowed_and_applied_changes_survive_a_kill(bench: Bench, four_steps: Path, home: Path) -> None:
    """[changed, killed, resumed with the run's own options] = [changed, not killed]."""
    changed = {**SCHEDULE, "random_flip": True, "allow_change": "random_flip", "max_train_steps": 10}
    whole = home.with_name("whole")
    shutil.copytree(four_steps, whole)
    shutil.copytree(four_steps, home)
    process = bench.run(whole, **changed)
    assert "Learning rate at step 4: 0 until now, 0.00075 from here on (cosine, stretched to end at step 10)." in (
        process.output()
    )
    crash = CrashPoint(call="replace", path="checkpoint-10-a2/trainer_state.json")
    assert bench.start(home, crash=crash, **changed).wait() == KILLED
    words = ["train", "--output_dir", str(home), "--resume", "latest"]
    process = bench.command(home, words)
    assert process.wait() == 0, process.output()
    assert "not the bytes of an unchanged run: attempt 2 changed random_flip from false to true" in process.output()
    assert result_digests(home) == result_digests(whole)
    (adopt,) = [one.body for one in log_of(home).entries if isinstance(one.body, Adopt) and one.body.changes]
    assert [(change.name, change.allowed) for change in adopt.changes] == [
        ("random_flip", True),
        ("max_train_steps", False),
    ]
    history = bench.command(home, ["history", str(home)])
    assert history.wait() == 0
    assert "attempt 2  random_flip      false -> true  refused, and allowed" in history.output()
