"""New tokens, and text encoders that are trained for a part of a run: killed around the pivot, every byte is right."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dreambooth_resume.runs.home import EMBEDDINGS_NAME, WEIGHTS_NAME
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests, sha256

TOKENS: dict[str, object] = {
    "train_text_encoder_ti": True,
    "token_abstraction": "TOK,THING",
    "instance_prompt": "a photo of TOK THING",
    "text_encoder_lr": 1e-2,
    "checkpointing_steps": 1,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 1,
}
VARIANTS: dict[str, dict[str, object]] = {
    "tokens": {**TOKENS, "mixed_precision": "fp16", "gradient_accumulation_steps": 2, "train_batch_size": 1},
    "prodigy": {
        **TOKENS,
        "optimizer": "prodigy",
        "learning_rate": 1.0,
        "lr_scheduler": "constant",
        "use_ema": True,
        "caption_dropout": 0.5,
    },
    "text_lora": {
        "train_text_encoder": True,
        "train_text_encoder_frac": 0.5,
        "lora_dropout": 0.3,
        "checkpointing_steps": 1,
    },
}


def _embeddings(home: Path, step: int) -> dict[str, np.ndarray]:
    """Of the checkpoint of a step: new tokens' rows and their moments."""
    log = log_of(home)
    (folder,) = {log.commit(number).folder for number in log.usable_line() if log.commit(number).step == step}
    tensors = load_file(home / folder / "trainer_state.safetensors")
    return {name: tensor for name, tensor in tensors.items() if "tokens" in name}


@pytest.mark.parametrize(
    ("name", "kills"),
    [("tokens", (2, 3, 4)), ("prodigy", (2, 4)), ("text_lora", (2, 4))],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_killed_before_at_and_after_the_pivot_it_ends_in_the_same_bytes(
    name: str, kills: tuple[int, ...], bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    changed = VARIANTS[name]
    for step in kills:
        # The pivot is at step 3 of 6. Killed when the entry of that step has just landed.
        process = bench.start(home, **changed)
        process.wait_for(lambda step=step: step in committed_steps(home), f"the commit of step {step}")  # type: ignore[misc]
        process.send(signal.SIGKILL)
        assert process.wait() == KILLED
    bench.run(home, **changed)
    assert log_of(home).highest_attempt == len(kills) + 1
    assert result_digests(home) == undisturbed(**changed)


@pytest.fixture(scope="module")
def trained(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a finished run, to be looked at."""
    home = tmp_path_factory.mktemp("trained") / "home"
    bench.run(home, **TOKENS)
    return home


def test_pictures_are_made_with_the_tokens_of_each_checkpoint(bench: Bench, trained: Path, tmp_path: Path) -> None:
    words = [
        "--prompt",
        "a photo of TOK THING",
        "--step",
        "1",
        "--step",
        "3",
        "--steps",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    made = bench.command(trained, ["generate", str(trained), *words])
    assert made.wait() == 0, made.output()
    names = ("base-0.png", "checkpoint-1-0.png", "checkpoint-3-0.png")
    assert len({sha256(tmp_path / "out" / name) for name in names}) == 3


def test_tokens_are_trained_up_to_the_pivot_and_stay_from_there_on(trained: Path) -> None:
    home = trained
    states = {step: _embeddings(home, step) for step in committed_steps(home)}
    names = set(states[1])
    assert {"tokens.text_encoder", "tokens.text_encoder_2", "optimizer.exp_avg.text_encoder.new_tokens"} <= names
    assert {states[1][f"tokens.text_encoder{end}"].shape for end in ("", "_2")} == {(4, 32)}  # two words, two each
    assert {tensor.dtype for state in states.values() for tensor in state.values()} == {np.dtype(np.float32)}
    for name in ("tokens.text_encoder", "tokens.text_encoder_2"):
        assert not np.array_equal(states[1][name], states[2][name])
        assert not np.array_equal(states[2][name], states[3][name])
    for name in names:
        for step in (4, 5, 6):
            np.testing.assert_array_equal(states[3][name], states[step][name])
    lines = [line for path in sorted(home.glob("metrics/*.jsonl")) for line in path.read_text().splitlines()]
    rates = [json.loads(line)["lr_text_encoder"] for line in lines]
    assert [rate > 0 for rate in rates] == [False, True, True, False, False, False]  # the first one is the warm-up's


def test_the_result_has_the_embeddings_and_a_kill_before_them_is_mended(bench: Bench, home: Path) -> None:
    assert bench.start(home, crash=CrashPoint(call="replace", path=EMBEDDINGS_NAME), **TOKENS).wait() == KILLED
    assert (home / WEIGHTS_NAME).exists()
    assert not (home / EMBEDDINGS_NAME).exists()
    resumed = bench.run(home, **TOKENS)
    assert "step 1/" not in resumed.output()
    assert EMBEDDINGS_NAME in resumed.output()
    made = load_file(home / EMBEDDINGS_NAME)
    last = _embeddings(home, 6)
    np.testing.assert_array_equal(made["clip_l"], last["tokens.text_encoder"])
    np.testing.assert_array_equal(made["clip_g"], last["tokens.text_encoder_2"])
    assert set(made) == {"clip_l", "clip_g"}
    assert not [name for name in load_file(home / WEIGHTS_NAME) if not name.startswith("unet.")]
    export = bench.command(
        home, ["export", str(home), "--step", "2", "--format", "kohya", "--to", str(home.parent / "two")]
    )
    assert export.wait() == 0, export.output()
    of_step_2 = load_file(home.parent / "two_emb.safetensors")
    np.testing.assert_array_equal(of_step_2["clip_g"], _embeddings(home, 2)["tokens.text_encoder_2"])
    before = sha256(home / EMBEDDINGS_NAME)
    (home / EMBEDDINGS_NAME).write_bytes(b"torn")
    bench.run(home, instance_prompt=None)  # the run remembers its tokens
    assert sha256(home / EMBEDDINGS_NAME) == before
    assert "`TOK` of the training prompts is `<s0><s1>`" in (home / "README.md").read_text()


def test_another_part_is_applied_and_other_tokens_are_refused(bench: Bench, home: Path) -> None:
    bench.run(home, **TOKENS, max_train_steps=2)
    refused = bench.start(home, **{**TOKENS, "num_new_tokens_per_abstraction": 3}, max_train_steps=4)
    assert refused.wait() == 2
    assert "the new tokens are there from the first step or not at all" in refused.output()
    resumed = bench.run(home, **TOKENS, train_text_encoder_ti_frac=1.0, max_train_steps=4)
    assert "applied" in resumed.output()
    lines = [line for path in sorted(home.glob("metrics/*.jsonl")) for line in path.read_text().splitlines()]
    assert [json.loads(line)["lr_text_encoder"] > 0 for line in lines] == [False, False, True, True]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"instance_prompt": "a photo of sks robot"}, "TOK, THING is in no prompt and no caption"),
        ({"train_text_encoder": True}, "not both"),
        ({"token_abstraction": "<s0>"}, "the names of the new tokens themselves"),
    ],
    ids=["word in no prompt", "beside a LoRA", "a token as the word"],
)
def test_what_could_not_learn_is_refused_before_a_model_loads(
    bench: Bench, home: Path, changed: dict[str, object], said: str
) -> None:
    process = bench.start(home, **{**TOKENS, **changed})
    assert process.wait() == 2
    assert said in process.output()
    assert not (home / "run.json").exists()
