"""Optimizers, rates and schedules that don't go together, or have no effect."""

from __future__ import annotations

import pytest

from dreambooth_resume.config.contradictions import remarks
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--optimizer lion --learning_rate 2", "2 is too large for Lion"),
        ("--optimizer prodigy --loraplus_lr_ratio 16", "loraplus_lr_ratio 16 does not go with prodigy"),
        (
            "--optimizer adamwschedulefree --lr_scheduler cosine",
            "lr_scheduler cosine does not go with AdamWScheduleFree",
        ),
        ("--optimizer adamwschedulefree --adam_beta1 0", "AdamWScheduleFree can't do with adam_beta1 0"),
        ("--lr_warmup_steps 9 --lr_warmup_ratio 0.1", "are two lengths of one warm-up"),
        (
            "--train_text_encoder --text_encoder_2_lr 1e-7 --lr_scheduler polynomial --lr_warmup_steps 0",
            "text_encoder_2_lr 1e-07 is not above 1e-07",
        ),
    ],
)
def test_contradictions_are_refused(typed: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as refusal:
        resolve(parse_train([*REQUIRED, *typed.split()]), recorded=None)
    assert refusal.value.fix


def test_a_warm_up_by_ratio_never_outlasts_the_run() -> None:
    typed = "--lr_scheduler linear --lr_warmup_ratio 0.1 --max_train_steps 40"
    assert resolve(parse_train([*REQUIRED, *typed.split()]), recorded=None)


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("--optimizer lion --adam_beta2 0.9 --adam_epsilon 1e-6", ["adam_beta2", "adam_epsilon"]),
        ("--optimizer adafactor --adam_beta1 0.5 --use_8bit_adam", ["adam_beta1", "use_8bit_adam"]),
        ("--lion_beta2 0.9 --text_encoder_2_lr 1e-5", ["lion_beta2", "text_encoder_2_lr"]),
        ("--lr_warmup_ratio 0.2", ["lr_warmup_ratio"]),
    ],
)
def test_options_without_effect_are_remarked(typed: str, names: list[str]) -> None:
    given = parse_train([*REQUIRED, *typed.split()])
    said = remarks(resolve(given, recorded=None), given.sources)
    assert sorted(line.split()[0] for line in said) == names
