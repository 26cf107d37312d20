"""The card of a finished run: the script's content, and nothing of the machine that trained."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from dreambooth_resume.runs.entries import CheckpointRef, StoredFile
from dreambooth_resume.runs.samples import write_samples
from dreambooth_resume.workflows.model_card import MARK, final_samples, model_card, publish_card
from tests.fakes.memory_storage import MemoryStorage

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


def front_of(card: str) -> dict[str, Any]:
    front: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return front


def with_pictures(storage: MemoryStorage) -> MemoryStorage:
    recipe = {"prompt": "sks dog: in a bucket", "seed": 7}
    for final in (False, True):
        write_samples(storage, (b"one", b"two"), step=500, attempt=1 + final, is_final=final, recipe=recipe)
    return storage


def test_the_front_matter_is_that_of_the_script() -> None:
    front = front_of(model_card("ada/dog", REF, OPTIONS, final_samples(with_pictures(MemoryStorage()), 500)))
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
    card = model_card(
        "ada/dog", REF, OPTIONS | {"pretrained_model_name_or_path": "/models/ada/sdxl", "use_dora": True}, None
    )
    assert 'pipeline.load_lora_weights("ada/dog"' in card
    assert "LoRA for the text encoders | yes" in card
    assert "samples a step | 8" in card
    assert "/models/ada" not in card
    assert "base_model" not in front_of(card)
    assert "dora" in front_of(card)["tags"]


def test_it_is_written_once_and_a_users_own_is_left_alone() -> None:
    storage = MemoryStorage()
    made = publish_card(storage, REF, OPTIONS, name="dog")
    assert storage.read("README.md") == made
    assert MARK.encode() in made
    assert publish_card(storage, REF, OPTIONS, name="dog") == made
    storage.write("README.md", [b"# my own"])
    assert publish_card(storage, REF, OPTIONS, name="dog") == b"# my own"
    assert storage.read("README.md") == b"# my own"


@pytest.mark.parametrize("secret", ["hub_token", "wandb"])
def test_only_known_facts_are_in_it(secret: str) -> None:
    assert "canary" not in model_card("dog", REF, OPTIONS | {secret: "canary"}, None)
