"""`dbr verify-resume`: says exact of a training that is, leaves the run alone, and finds one that is not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from dreambooth_resume.cli.verify_resume import run
from dreambooth_resume.workflows.lives import Child, Spawn
from tests.resume.conftest import Undisturbed
from tests.resume.harness import Bench, Process, sha256

NOT_EXACT = 1


@dataclass(frozen=True)
class Forked:
    """A forked child, as `dbr verify-resume` watches it."""

    process: Process

    def poll(self) -> int | None:
        return self.process.poll()

    def kill(self) -> None:
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.process.send(signal.SIGKILL)


def forking(bench: Bench, *, prelude: str | None = None) -> Spawn:
    def spawn(words: Sequence[str], output: Path) -> Child:
        answer = bench.server.ask(
            {
                "argv": list(words),
                "log": str(output),
                "cwd": os.getcwd(),
                "home": str(output.parent),
                "program": "dreambooth_resume.cli.stretch:main",
                "prelude": prelude,
            }
        )
        return Forked(Process(bench.server, answer["pid"], output))

    return spawn


def test_a_new_run_that_is_killed_three_times_is_exact(
    bench: Bench, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = bench.words(home, max_train_steps=400, lr_scheduler="cosine", lr_warmup_steps=2, seed=None)
    picture = tmp_path / "report.png"
    assert run(["--kills", "3", "--kill-seed", "5", "--png", str(picture), *words], spawn=forking(bench)) == 0
    shown = capsys.readouterr().out
    assert "Verdict: exact. No kill changed a byte." in shown
    for kind in ("killed between steps", "killed in a save", "killed in a step"):
        assert shown.count(kind) >= 2, "told when it happens, and in the report"
    told = "16 steps compared: samples, learning rate, loss and gradient norm are the same bits"
    assert told in shown, shown
    assert shown.count("  same\n") == 3
    assert not home.exists(), "the run was not begun"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_on_a_slow_disk_the_kill_in_a_save_finds_the_training_alive(
    bench: Bench, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--kills", "2", "--kill-seed", "5", *bench.words(home, max_train_steps=400, seed=None)]
    assert run(words, spawn=forking(bench, prelude="tests.resume.inexact:slow_disk")) == 0
    shown = capsys.readouterr().out
    assert "Verdict: exact. No kill changed a byte." in shown
    assert "killed in a save at step 7." in shown, shown
    assert "12 steps compared" in shown, shown


def test_of_a_run_that_exists_a_copy_is_tried_and_the_home_only_read(
    bench: Bench, home: Path, tmp_path: Path, undisturbed: Undisturbed, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.run(home)
    before = {path: sha256(path) for path in home.rglob("*") if path.is_file()}
    folder = tmp_path / "work"
    words = ["--output_dir", str(home), "--json", "--kills", "1", "--dir", str(folder)]
    assert run(words, spawn=forking(bench)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["word"] == "exact"
    # Its newest checkpoints leave no room: it begins at the oldest.
    assert (found["base_step"], found["until_step"]) == (2, 6)
    assert found["lives"][0]["exit_code"] == -signal.SIGKILL
    # Of the original's options and seed, so the stretch ends in the original's bytes.
    shas = {file["name"]: file["second_sha256"] for file in found["comparison"]["files"]}
    assert shas["pytorch_lora_weights.safetensors"] == undisturbed()["pytorch_lora_weights.safetensors"]
    assert {path: sha256(path) for path in home.rglob("*") if path.is_file()} == before
    assert folder.is_dir()


def test_a_resume_that_loses_the_optimizers_moments_is_found_and_named(
    bench: Bench, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--kills", "1", "--dir", str(tmp_path / "work"), *bench.words(home, max_train_steps=8)]
    assert run(words, spawn=forking(bench, prelude="tests.resume.inexact:lose_the_moments")) == NOT_EXACT
    shown = capsys.readouterr().out
    assert "Verdict: exact" not in shown
    assert "first at step 4: loss" in shown
    assert "tensors differ, the first is lora." in shown
    # Step 3 has the checkpoint's weights, its update is another, and step 4 shows it.
    assert "likely cause: the step before it ended in other weights: the optimizer's state was not restored" in shown
    assert "two runs that nobody killed are the same to the byte, so it is the resume" in shown
    assert "what to do: report it" in shown
    assert f"Both runs, and what they printed: {tmp_path / 'work'}" in shown


def test_a_machine_that_never_gives_the_same_bits_is_told_from_a_resume_that_loses_something(
    bench: Bench, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--kills", "1", "--dir", str(tmp_path / "work"), *bench.words(home, max_train_steps=8)]
    assert run(words, spawn=forking(bench, prelude="tests.resume.inexact:compute_otherwise_each_time")) == NOT_EXACT
    shown = capsys.readouterr().out
    assert "Verdict: equivalent." in shown
    assert "first at step 1: loss" in shown, shown
    assert "two runs that nobody killed differ as well" in shown
    assert "--torch_threads 1" in shown
