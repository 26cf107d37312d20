"""Unknown names, other trainers' names, and names that are not available yet."""

from __future__ import annotations

import pytest

from dreambooth_resume.config.load import parse_train
from dreambooth_resume.config.not_yet import DIFFUSERS_SCRIPT, LATER, NOT_YET
from dreambooth_resume.config.other_trainers import NO_COUNTERPART, OTHER_TRAINERS
from dreambooth_resume.config.schema import ALIASES, OPTIONS
from dreambooth_resume.config.unknown import nearest_name
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick


def _refusal(*argv: str) -> BadInput:
    with pytest.raises(BadInput) as refusal:
        parse_train(argv)
    return refusal.value


@pytest.mark.parametrize("name", list(NOT_YET))
def test_name_of_a_later_release_is_refused_and_never_ignored(name: str) -> None:
    for argv in ([f"--{name}"], [f"--{name.replace('_', '-')}", "3"], [f"--{name}=x"]):
        error = _refusal(*argv)
        assert error.what == f"not available yet: {NOT_YET[name]}"
        assert error.exit_code == 2


@pytest.mark.parametrize("name", list(OTHER_TRAINERS))
def test_other_trainers_name_is_answered_with_ours(name: str) -> None:
    error = _refusal(f"--{name}", "3")
    ours = OTHER_TRAINERS[name]
    assert ours in error.what
    assert error.what.startswith("not available yet" if ours in NOT_YET else "is called")


@pytest.mark.parametrize("name", list(NO_COUNTERPART))
def test_name_without_counterpart_says_why(name: str) -> None:
    assert NO_COUNTERPART[name] in _refusal(f"--{name}", "3").what


def test_the_tables_are_sound() -> None:
    known = {*OPTIONS, *ALIASES}
    assert not known & set(NOT_YET)
    assert not known & set(OTHER_TRAINERS)
    assert not (known | set(OTHER_TRAINERS) | set(NOT_YET)) & set(NO_COUNTERPART)
    assert not set(DIFFUSERS_SCRIPT) & set(LATER)
    assert set(OTHER_TRAINERS.values()) <= set(OPTIONS) | set(NOT_YET)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("max_trian_steps", "max_train_steps"),
        ("learning_rte", "learning_rate"),
        ("checkpoint_total_limit", "checkpoints_total_limit"),
        ("instance_promt", "instance_prompt"),
        ("resum", "resume"),
        ("grad_norm", "max_grad_norm"),
        ("interpolation_mode", "image_interpolation_mode"),
        ("zzzz", None),
    ],
)
def test_nearest_name(typed: str, meant: str | None) -> None:
    assert nearest_name(typed) == meant


def test_misspelt_flag_is_answered_with_the_options_help() -> None:
    error = _refusal("--learning-rte", "1")
    assert error.where == "--learning-rte"
    assert error.fix == "did you mean --learning_rate? (Learning rate after the warm-up)"
