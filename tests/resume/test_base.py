"""A base in fewer bits, prompts read another way: killed and resumed, every byte is that of an undisturbed run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, committed_steps, log_of, result_digests

VARIANTS: dict[str, dict[str, object]] = {
    "nf4, clip_skip": {"base_precision": "nf4", "clip_skip": 1, "mixed_precision": "bf16"},
    "int8": {"base_precision": "int8", "gradient_checkpointing": True},
    "fp8, text encoders, clip_skip": {
        "base_precision": "fp8",
        "clip_skip": 1,
        "train_text_encoder": True,
        "gradient_checkpointing": True,
    },
}


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_once_ends_in_the_same_bytes(name: str, bench: Bench, undisturbed: Undisturbed, home: Path) -> None:
    changed = VARIANTS[name]
    process = bench.start(home, **changed)
    process.wait_for(lambda: committed_steps(home) != [], "the first commit")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    resumed = bench.run(home, **changed)
    assert log_of(home).highest_attempt == 2
    assert "equivalent" not in resumed.output()
    assert result_digests(home) == undisturbed(**changed)
    numerics = json.loads((home / "run.json").read_text())["numerics"]
    assert numerics["base_precision"] == changed["base_precision"]
    assert ("bitsandbytes" in numerics) == (changed["base_precision"] != "fp8")
    _pictures(bench, home)


def _pictures(bench: Bench, home: Path) -> None:
    """Pictures of the result are made with the whole base, and prompts read as in the training."""
    words = ["generate", str(home), "--prompt", "a dog", "--out", str(home.parent / "pictures"), "--steps", "1"]
    made = bench.command(home, words)
    assert made.wait() == 0, made.output()


def test_layers_in_main_memory_change_no_byte_also_on_a_resume(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    process = bench.start(home, offload=True)
    process.wait_for(lambda: committed_steps(home) != [], "the first commit")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    resumed = bench.run(home, offload=False, gradient_checkpointing=True)
    assert "offload" in resumed.output()
    assert "equivalent" not in resumed.output()
    assert result_digests(home) == undisturbed(gradient_checkpointing=True)


def test_without_them_the_results_are_others(undisturbed: Undisturbed) -> None:
    plain = undisturbed()["result"]
    assert undisturbed(base_precision="no", clip_skip=0)["result"] == plain
    assert undisturbed(clip_skip=1)["result"] != plain


def test_more_layers_than_the_model_has_are_refused(bench: Bench, home: Path) -> None:
    process = bench.start(home, clip_skip=2)
    assert process.wait() == 2
    assert "at most 1 can be skipped" in process.output()


def test_the_base_stays_for_the_life_of_the_run(bench: Bench, home: Path) -> None:
    bench.run(home, max_train_steps=1, checkpointing_steps=1)
    again = bench.start(home, base_precision="nf4")
    assert again.wait() == 2
    assert "--allow_change base_precision" in again.output()
