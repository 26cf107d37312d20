"""The card of a finished run: the script's content, and nothing of the machine that trained."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dreambooth_resume.runs.adoption import ref_of
from dreambooth_resume.runs.entries import CheckpointRef, StoredFile
from dreambooth_resume.runs.history import HistoryTotals
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.samples import write_samples
from dreambooth_resume.workflows.model_card import MARK, TrainingFacts, final_samples, model_card, publish_card
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import run_to_the_end
from tests.fakes.watched_run import record_run

REF = CheckpointRef(
    number=3,
    step=500,
    attempt=1,
    folder="checkpoint-500",
    files=(StoredFile(key="checkpoint-500/pytorch_lora_weights.safetensors", size_bytes=5, sha256="ab" * 32),),
)
OPTIONS: dict[str, Any] = {
    "pretrained_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0",
    "pretrained_vae_model_name_or_path": "/models/ada/my-vae",
    "instance_prompt": 'a photo of "sks" dog',
    "rank": 16,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "train_text_encoder": True,
}

NUMERICS = {"device": "cuda", "device_name": "NVIDIA L4", "torch": "2.13.0"}
ONE_GO = HistoryTotals(
    attempts=1, machines=1, interruptions=0, checkpoints=5, steps_trained=500, redone_steps=0, training_seconds=720.0
)


def front_of(card: str) -> dict[str, Any]:
    front: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return front


def with_pictures(storage: MemoryStorage) -> MemoryStorage:
    recipe = {"prompt": "sks dog: in a bucket", "seed": 7}
    for final in (False, True):
        write_samples(
            storage,
            (b"one", b"two"),
            step=500,
            attempt=1 + final,
            recipe=recipe,
            kind="final" if final else "validation",
        )
    return storage


def facts(*, totals: HistoryTotals = ONE_GO, **changed: Any) -> TrainingFacts:
    return TrainingFacts(options={**OPTIONS, **changed}, numerics=NUMERICS, samples_a_step=8, pictures=7, totals=totals)


def test_the_front_matter_is_that_of_the_script() -> None:
    front = front_of(model_card("ada/dog", REF, facts(), final_samples(with_pictures(MemoryStorage()), 500)))
    assert front["license"] == "openrail++"
    assert front["base_model"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert front["instance_prompt"] == 'a photo of "sks" dog'
    assert {"text-to-image", "diffusers-training", "lora", "template:sd-lora", "stable-diffusion-xl"} <= set(
        front["tags"]
    )
    assert front["widget"] == [
        {"text": "sks dog: in a bucket", "output": {"url": f"samples/500-a2/{number}.png"}} for number in (0, 1)
    ]


def test_it_says_how_to_use_it_and_names_no_folder_of_the_machine() -> None:
    card = model_card("ada/dog", REF, facts(pretrained_model_name_or_path="/models/ada/sdxl", use_dora=True), None)
    assert 'pipeline.load_lora_weights("ada/dog"' in card
    assert "LoRA for the text encoders | yes" in card
    assert "samples a step | 8" in card
    assert "/models/ada" not in card
    assert "base_model" not in front_of(card)
    assert "dora" in front_of(card)["tags"]


def test_it_says_how_other_programs_use_it() -> None:
    without = model_card("ada/dog", REF, facts(), None)
    assert "`dbr export HOME --format kohya --to dog.safetensors`" in without
    assert "<lora:dog:1>" in without
    assert "ComfyUI" in without
    with_file = model_card("ada/dog", REF, facts(output_kohya_format=True), None)
    assert "put `pytorch_lora_weights_kohya.safetensors` into `models/Lora`" in with_file
    assert "<lora:pytorch_lora_weights_kohya:1>" in with_file
    assert "dbr export" not in with_file


def test_it_says_how_the_run_went() -> None:
    assert "trained in one go, in 12.0 minutes" in model_card("dog", REF, facts(), None)
    often = HistoryTotals(
        attempts=4,
        machines=3,
        interruptions=3,
        checkpoints=10,
        steps_trained=512,
        redone_steps=12,
        training_seconds=9000.0,
    )
    card = model_card("dog", REF, facts(totals=often), None)
    assert "4 attempts on 3 machines, in 2.5 hours, and interrupted 3 times; 12 of 512 steps were trained again" in card
    assert "| hardware | NVIDIA L4 (cuda) |" in card
    assert "| pictures | 7 |" in card


def test_pictures_are_shown_to_readers_without_a_gallery_too() -> None:
    storage = MemoryStorage()
    recipe = {"prompt": "a | b] `c`", "seed": 7}
    write_samples(storage, (b"1", b"2", b"3", b"4", b"5"), step=500, attempt=1, kind="final", recipe=recipe)
    card = model_card("dog", REF, facts(), final_samples(storage, 500))
    assert "<Gallery />" in card
    rows = [line for line in card.splitlines() if line.startswith("| ![")]
    assert [row.count("|") for row in rows] == [5, 5], "four a row, and no prompt ends a cell"
    assert "![a   b   c ](samples/500-a1/4.png)" in rows[1]


def test_it_is_written_once_and_a_users_own_is_left_alone() -> None:
    storage = MemoryStorage()
    record_run(storage)
    run_to_the_end(storage)
    log = read_log(storage)
    assert log.finished is not None
    ref = ref_of(log, log.finished.checkpoint)
    made = publish_card(storage, log, ref, name="dog")
    assert storage.read("README.md") == made
    assert MARK.encode() in made
    assert publish_card(storage, log, ref, name="dog") == made
    storage.write("README.md", [b"# my own"])
    assert publish_card(storage, log, ref, name="dog") == b"# my own"
    assert storage.read("README.md") == b"# my own"


@pytest.mark.parametrize("secret", ["hub_token", "wandb"])
def test_only_known_facts_are_in_it(secret: str) -> None:
    assert "canary" not in model_card("dog", REF, facts(**{secret: "canary"}), None)


def test_what_a_user_has_to_give_too_is_in_the_code_and_other_layers_are_told() -> None:
    card = model_card("ada/dog", REF, facts(clip_skip=1, conv_dim=8, lora_layers=None, use_blora=False), None)
    assert 'image = pipeline("a photo of \\"sks\\" dog", clip_skip=1).images[0]' in card
    assert "| conv_dim | 8 |" in card
    assert "lora_layers" not in card
    assert "use_blora" not in card
    assert "clip_skip" not in model_card("ada/dog", REF, facts(clip_skip=0), None)


def test_new_tokens_are_in_the_trigger_words_and_their_file_is_loaded() -> None:
    of_tokens = facts(
        train_text_encoder=False,
        train_text_encoder_ti=True,
        token_abstraction="TOK,IT",
        num_new_tokens_per_abstraction=2,
        instance_prompt="a photo of TOK",
    )
    card = model_card("ada/dog", REF, of_tokens, None)
    assert front_of(card)["instance_prompt"] == "a photo of <s0><s1>"
    assert "Use `a photo of <s0><s1>` to trigger" in card
    assert "- `IT` of the training prompts is `<s2><s3>`" in card
    assert 'token=["<s0>", "<s1>", "<s2>", "<s3>"]' in card
    assert "| new tokens (pivotal tuning) | `<s0><s1><s2><s3>` |" in card
    compile(card.split("```python\n")[1].split("```")[0], "card", "exec")
    assert "load_textual_inversion" not in model_card("ada/dog", REF, facts(), None)
