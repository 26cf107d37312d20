"""The options of pivotal tuning."""

from __future__ import annotations

import pytest

from dreambooth_resume.config.contradictions import remarks
from dreambooth_resume.config.load import GivenOptions, parse_train, resolve
from dreambooth_resume.config.options.tokens import pivot_step
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick

NEEDED = ["--pretrained_model_name_or_path", "x", "--instance_data_dir", "y", "--instance_prompt", "a TOK"]


def given(*words: str) -> GivenOptions:
    return parse_train([*NEEDED, *words])


@pytest.mark.parametrize(
    ("part", "steps", "pivot"),
    [(0.5, 800, 400), (0.29, 100, 29), (0.5, 3, 1), (0.1, 3, 1), (1.0, 10, None), (0.999, 10, 9)],
)
def test_the_pivot_is_a_part_of_the_steps_and_at_least_one_comes_before_it(
    part: float, steps: int, pivot: int | None
) -> None:
    assert pivot_step(part, max_train_steps=steps) == pivot


def test_several_words_are_read_with_blanks_or_as_a_list() -> None:
    options = resolve(given("--train_text_encoder_ti", "--token_abstraction", "TOK, TOK2"), recorded=None)
    assert options.tokens.words == ("TOK", "TOK2")
    assert options.text_part == 0.5
    assert resolve(given(), recorded=None).text_part is None
    assert resolve(given("--train_text_encoder"), recorded=None).text_part == 1.0


@pytest.mark.parametrize("words", ["TOK,,TOK2", "", "TOK,TOK", "<s3>"])
def test_words_that_can_not_be_are_refused(words: str) -> None:
    with pytest.raises(BadInput):
        given("--token_abstraction", words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train_text_encoder"], "not both"),
        (["--network_weights", "dog.safetensors"], "trained without"),
        (["--optimizer", "AdamWScheduleFree"], "averages is the LoRA alone"),
    ],
)
def test_what_does_not_go_with_new_tokens_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        resolve(given("--train_text_encoder_ti", *words), recorded=None)


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        (["--token_abstraction", "IT"], "token_abstraction"),
        (["--train_text_encoder_ti_frac", "0.3"], "train_text_encoder_ti_frac"),
        (["--train_text_encoder_frac", "0.3"], "train_text_encoder_frac"),
    ],
)
def test_an_option_that_does_nothing_is_remarked(words: list[str], idle: str) -> None:
    found = given(*words)
    assert any(
        line.startswith(f"{idle} has no effect") for line in remarks(resolve(found, recorded=None), found.sources)
    )


def test_a_run_of_an_earlier_release_trains_its_text_encoders_to_the_end() -> None:
    from dreambooth_resume.config.load import record

    recorded = record(resolve(given("--train_text_encoder"), recorded=None))
    for name in ("train_text_encoder_ti", "token_abstraction", "train_text_encoder_ti_frac", "train_text_encoder_frac"):
        del recorded[name]
    old = resolve(parse_train([]), recorded=recorded)
    assert (old.text_part, old.tokens.train_text_encoder_ti) == (1.0, False)
