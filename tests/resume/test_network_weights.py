"""A run that begins from an existing LoRA: taken over exactly, kept in the home, and resumed to the same bytes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests, sha256

WEIGHTS, KOHYA = "pytorch_lora_weights.safetensors", "pytorch_lora_weights_kohya.safetensors"
FIRST: dict[str, object] = {
    "max_train_steps": 2,
    "lora_layers": "to_q,ff.net.2",
    "conv_dim": 2,
    "rank_pattern": "mid_block=6",
    "lora_alpha": 8,
    "train_text_encoder": True,
    "output_kohya_format": True,
}


@pytest.fixture(scope="module")
def first(bench: Bench) -> Path:
    """A finished run with a LoRA of many kinds of layers."""
    home = bench.folder / "to-begin-from"
    bench.run(home, **FIRST)
    return home


def matrices(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def run_record(home: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((home / "run.json").read_text())
    return found


@pytest.mark.parametrize("name", [WEIGHTS, KOHYA], ids=["diffusers", "kohya"])
def test_the_first_step_goes_on_from_the_files_matrices(name: str, bench: Bench, first: Path, home: Path) -> None:
    """With a rate of almost nothing what comes out is what went in, every layer with its own alpha."""
    bench.run(
        home, network_weights=first / name, train_text_encoder=True, max_train_steps=1, learning_rate=1e-30,
        text_encoder_lr=1e-30, output_kohya_format=True,
    )  # fmt: skip
    for file in (WEIGHTS, KOHYA):
        before, after = matrices(first / file), matrices(home / file)
        assert before.keys() == after.keys()
        for key in before:
            np.testing.assert_allclose(after[key], before[key], rtol=1e-6, atol=1e-9, err_msg=key)
    options = run_record(home)["options"]
    assert isinstance(options, dict)
    assert (options["rank"], options["lora_alpha"]) == (4, 8)


def test_killed_once_ends_in_the_same_bytes_though_the_file_is_gone(
    bench: Bench, first: Path, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "lora.safetensors"
    weights.write_bytes((first / KOHYA).read_bytes())
    expected = undisturbed(network_weights=first / KOHYA, train_text_encoder=True)
    process = bench.start(home, network_weights=weights, train_text_encoder=True)
    process.wait_for(lambda: committed_steps(home) != [], "the first commit")
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    weights.unlink()
    bench.run(home, network_weights=weights, train_text_encoder=True)
    assert log_of(home).highest_attempt == 2
    assert result_digests(home) == expected
    words = ["generate", str(home), "--prompt", "a dog", "--out", str(tmp_path / "pictures"), "--steps", "1"]
    made = bench.command(home, words)
    assert made.wait() == 0, made.output()
    cleared = bench.command(home, ["gc", str(home), "--yes"])
    assert cleared.wait() == 0, cleared.output()
    assert sha256(home / "inputs" / str(run_record(home)["pins"]["network_weights"])) == sha256(first / KOHYA)  # type: ignore[index]


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_the_write_of_run_json(when: str, bench: Bench, first: Path, home: Path) -> None:
    crash = CrashPoint(call="link", path="run.json", when=when)
    process = bench.start(home, crash=crash, network_weights=first / WEIGHTS, train_text_encoder=True)
    assert process.wait() != 0
    resumed = bench.run(home, network_weights=first / WEIGHTS, train_text_encoder=True, max_train_steps=1)
    assert log_of(home).finished is not None, resumed.output()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "add --train_text_encoder"),
        ({"train_text_encoder": True, "rank": 8}, "rank is 8, and the LoRA that the run begins from has 4"),
        ({"train_text_encoder": True, "lora_layers": "to_q"}, "lora_layers does not go with network_weights"),
        ({"network_weights": "nowhere.safetensors"}, "can't be read"),
        ({"network_weights": __file__}, "not a safetensors file"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run_begins(
    changed: dict[str, object], said: str, bench: Bench, first: Path, home: Path
) -> None:
    process = bench.start(home, **{"network_weights": first / WEIGHTS, **changed})  # type: ignore[arg-type]
    assert process.wait() == 2
    assert said in process.output(), process.output()
    assert not (home / "run.json").exists()


def test_another_file_on_a_resume_is_refused(bench: Bench, first: Path, home: Path) -> None:
    bench.run(home, network_weights=first / WEIGHTS, train_text_encoder=True, max_train_steps=1)
    process = bench.start(home, network_weights=first / KOHYA, train_text_encoder=True, max_train_steps=2)
    assert process.wait() == 2
    assert "is not the file that the run was begun from" in process.output()
