"""Text encoders, DoRA, kohya's format: killed and resumed, every byte is that of an undisturbed run."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests, sha256

KOHYA = "pytorch_lora_weights_kohya.safetensors"
VARIANTS: dict[str, dict[str, object]] = {
    "text_encoders": {
        "train_text_encoder": True,
        "text_encoder_lr": 1e-3,
        "lora_dropout": 0.3,
        "train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
    },
    "dora": {"use_dora": True, "rank": 2, "lora_alpha": 8},
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
    assert "Resuming" in resumed.output()
    assert result_digests(home) == undisturbed(**changed)


def test_another_rate_of_the_text_encoders_is_applied_and_said(bench: Bench, home: Path) -> None:
    changed: dict[str, object] = {"train_text_encoder": True, "checkpointing_steps": 3}
    bench.run(home, max_train_steps=3, **changed)
    resumed = bench.run(home, max_train_steps=6, text_encoder_lr=1e-3, **changed)
    assert re.search(r"text_encoder_lr +5e-06 +0\.001 +--text_encoder_lr +applied", resumed.output()), resumed.output()
    lines = [line for path in sorted(home.glob("metrics/*.jsonl")) for line in path.read_text().splitlines()]
    steps = [json.loads(line) for line in lines]
    assert [step["learning_rate"] for step in steps] == [1e-3] * 6
    assert [step["lr_text_encoder"] for step in steps] == [5e-6] * 3 + [1e-3] * 3
    assert [step["lr_text_encoder_2"] for step in steps] == [5e-6] * 3 + [1e-3] * 3


@pytest.mark.parametrize(
    ("option", "value"), [("train_text_encoder", False), ("use_dora", True)], ids=["train_text_encoder", "use_dora"]
)
def test_what_is_trained_stays_for_the_life_of_the_run(bench: Bench, home: Path, option: str, value: bool) -> None:
    first = bench.start(home, train_text_encoder=True)
    first.wait_for_step(2)
    first.send(signal.SIGTERM)
    assert first.wait() == 75
    before = {path: sha256(path) for path in home.rglob("*") if path.is_file()}
    again = bench.start(home, **{"train_text_encoder": True, option: value})
    assert again.wait() == 2, again.output()
    assert option in again.output()
    assert "start a new run" in again.output()
    assert {path: sha256(path) for path in home.rglob("*") if path.is_file()} == before


def test_killed_between_the_two_files_of_the_result_both_are_there_in_the_end(bench: Bench, home: Path) -> None:
    changed: dict[str, object] = {"output_kohya_format": True, "train_text_encoder": True, "lora_alpha": 8}
    assert bench.start(home, crash=CrashPoint(call="replace", path=KOHYA), **changed).wait() == KILLED
    assert not (home / KOHYA).exists()
    resumed = bench.run(home, **changed)
    assert "step 1/" not in resumed.output()
    assert KOHYA in resumed.output()
    made = sha256(home / KOHYA)
    (home / KOHYA).write_bytes(b"torn")
    bench.run(home)  # the run remembers that the file was asked for
    assert sha256(home / KOHYA) == made
    with safe_open(home / KOHYA, "pt") as file:
        names = list(file.keys())
        assert {name.split("_")[1] for name in names} == {"unet", "te1", "te2"}
        alphas = {file.get_tensor(name).item() for name in names if name.endswith(".alpha")}
    assert alphas == {8.0}


def test_asked_for_when_the_run_is_finished_kohyas_file_is_made_then(bench: Bench, home: Path) -> None:
    bench.run(home)
    weights = sha256(home / "pytorch_lora_weights.safetensors")
    assert not (home / KOHYA).exists()
    again = bench.run(home, output_kohya_format=True)
    assert "step 1/" not in again.output()
    assert (home / KOHYA).exists()
    assert sha256(home / "pytorch_lora_weights.safetensors") == weights
