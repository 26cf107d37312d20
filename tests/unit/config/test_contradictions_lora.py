"""What a LoHa or LoKr refuses, before a model loads."""

from __future__ import annotations

import pytest

from dreambooth_resume.config.contradictions import refuse_contradictions, remarks
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick

REQUIRED = ("--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("use_dora", ["--use_dora"]),
        ("lora_dropout", ["--lora_dropout", "0.1"]),
        ("train_text_encoder", ["--train_text_encoder"]),
        ("loraplus_lr_ratio", ["--loraplus_lr_ratio", "16"]),
        ("base_precision", ["--base_precision", "nf4"]),
        ("resume_from_checkpoint", ["--resume_from_checkpoint", "out/checkpoint-500"]),
        ("lora_type", ["--network_weights", "dog.safetensors"]),
    ],
)
def test_what_only_a_lora_has_is_refused_beside_another_kind(option: str, words: list[str]) -> None:
    common = [*REQUIRED, "--max_train_steps", "10", "--lr_scheduler", "constant"]
    alone = parse_train([*common, *words])
    refuse_contradictions(resolve(alone, recorded=None), alone.sources)
    for kind in ("loha", "lokr"):
        given = parse_train([*common, *words, "--lora_type", kind])
        with pytest.raises(BadInput, match=f"^{option}|: {option}") as refusal:
            refuse_contradictions(resolve(given, recorded=None), given.sources)
        assert refusal.value.fix


def test_a_factor_is_a_lokrs_and_never_zero() -> None:
    given = parse_train([*REQUIRED, "--lora_type", "loha", "--lokr_factor", "8"])
    assert [line.split(":")[0] for line in remarks(resolve(given, recorded=None), given.sources)] == [
        "lokr_factor has no effect"
    ]
    with pytest.raises(BadInput):
        resolve(parse_train([*REQUIRED, "--lora_type", "lokr", "--lokr_factor", "0"]), recorded=None)
