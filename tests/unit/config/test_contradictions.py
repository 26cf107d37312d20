"""Options that are right one by one and wrong, or without effect, together."""

from __future__ import annotations

import pytest

from dreambooth_resume.config.contradictions import (
    refuse_endless_warmup,
    refuse_half_a_prior,
    refuse_two_sources,
    remarks,
)
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]


@pytest.mark.parametrize(
    "scheduler", ["constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
)
def test_warmup_that_never_ends_is_refused(scheduler: str) -> None:
    argv = [*REQUIRED, "--lr_scheduler", scheduler, "--max_train_steps", "40"]
    with pytest.raises(BadInput, match=r"lr_warmup_steps is 500 \(the default\), but the run has 40 steps") as refusal:
        resolve(parse_train(argv), recorded=None)
    assert "--lr_warmup_steps 4" in str(refusal.value.fix)
    with pytest.raises(BadInput, match="is 40, but the run has 40 steps"):
        resolve(parse_train([*argv, "--lr_warmup_steps", "40"]), recorded=None)
    assert resolve(parse_train([*argv, "--lr_warmup_steps", "39"]), recorded=None)


@pytest.mark.parametrize(
    ("rates", "named"),
    [
        (["--learning_rate", "1e-8"], "learning_rate 1e-08"),
        (["--train_text_encoder", "--text_encoder_lr", "1e-7"], "text_encoder_lr 1e-07"),
        (["--text_encoder_lr", "1e-7"], None),
        (["--train_text_encoder", "--text_encoder_lr", "1e-7", "--optimizer", "prodigy"], None),
    ],
)
def test_a_polynomial_schedule_that_would_have_to_climb_is_refused(rates: list[str], named: str | None) -> None:
    given = parse_train([*REQUIRED, "--lr_scheduler", "polynomial", *rates])
    if named is None:
        assert resolve(given, recorded=None)
        return
    with pytest.raises(BadInput, match=f"{named} is not above 1e-07"):
        resolve(given, recorded=None)


def test_constant_has_no_warmup_to_contradict() -> None:
    assert resolve(parse_train([*REQUIRED, "--max_train_steps", "40", "--lr_warmup_steps", "99"]), recorded=None)


def test_warmup_is_looked_at_again_when_the_epochs_are_counted() -> None:
    given = parse_train([*REQUIRED, "--lr_scheduler", "linear"])
    options = resolve(given, recorded=None)
    refuse_endless_warmup(options, given.sources, max_train_steps=501)
    with pytest.raises(BadInput, match="500 steps"):
        refuse_endless_warmup(options, given.sources, max_train_steps=500)


def test_request_id_without_a_step_is_refused() -> None:
    with pytest.raises(BadInput, match="no step to go back to"):
        resolve(parse_train([*REQUIRED, "--resume_request_id", "a"]), recorded=None)


def test_options_without_effect_are_remarked() -> None:
    argv = ["--lr_warmup_steps", "9", "--num_train_epochs", "3", "--max_train_steps", "5", "--prefetch_factor", "4"]
    given = parse_train([*REQUIRED, *argv])
    said = remarks(resolve(given, recorded=None), given.sources)
    assert [line.split()[0] for line in said] == ["lr_warmup_steps", "num_train_epochs", "prefetch_factor"]


def test_adamw_has_no_rate_above_1() -> None:
    with pytest.raises(BadInput, match="2 is too large for AdamW"):
        resolve(parse_train([*REQUIRED, "--learning_rate", "2"]), recorded=None)
    assert resolve(parse_train([*REQUIRED, "--learning_rate", "2", "--optimizer", "Prodigy"]), recorded=None)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--optimizer", "prodigy"], ["learning_rate is 0.0001: prodigy multiplies it"]),
        (["--optimizer", "prodigy", "--learning_rate", "1"], []),
        (
            ["--optimizer", "prodigy", "--learning_rate", "1", "--use_8bit_adam"],
            ["use_8bit_adam has no effect: only optimizer AdamW has an 8-bit form"],
        ),
        (
            ["--s3-endpoint-url", "http://127.0.0.1:9"],
            ["s3_endpoint_url has no effect: the home is a folder; a bucket is storage_uri s3://BUCKET/NAME"],
        ),
        (["--s3-endpoint-url", "http://127.0.0.1:9", "--storage_uri", "s3://bucket/dog"], []),
        (["--no-prodigy_decouple"], ["prodigy_decouple has no effect: only optimizer prodigy has it"]),
    ],
)
def test_remarks_on_odd_values_and_options_without_effect(argv: list[str], said: list[str]) -> None:
    given = parse_train([*REQUIRED, *argv])
    remarked = remarks(resolve(given, recorded=None), given.sources)
    assert [line[: len(words)] for line, words in zip(remarked, said, strict=True)] == said


def test_zero_warmup_beside_constant_is_how_people_write_none() -> None:
    given = parse_train([*REQUIRED, "--lr_scheduler", "constant", "--lr_warmup_steps", "0"])
    assert remarks(resolve(given, recorded=None), given.sources) == ()


def test_class_options_without_prior_preservation_are_remarked() -> None:
    argv = ["--class_data_dir", "class", "--class_prompt", "a dog", "--num_class_images", "9"]
    given = parse_train([*REQUIRED, *argv])
    said = remarks(resolve(given, recorded=None), given.sources)
    assert [line.split()[0] for line in said] == ["class_data_dir", "class_prompt", "num_class_images"]
    given = parse_train([*REQUIRED, *argv, "--with_prior_preservation"])
    assert remarks(resolve(given, recorded=None), given.sources) == ()


def test_prior_preservation_needs_a_prompt_and_should_have_pictures_of_its_own() -> None:
    def refused(*argv: str) -> BadInput:
        given = parse_train([*REQUIRED, "--with_prior_preservation", *argv])
        with pytest.raises(BadInput) as refusal:
            refuse_half_a_prior(resolve(given, recorded=None), given.sources)
        return refusal.value

    assert "--class_prompt" in str(refused().fix)
    given = parse_train([*REQUIRED, "--with_prior_preservation", "--class_prompt", "a dog"])
    refuse_half_a_prior(resolve(given, recorded=None), given.sources)
    # Diffusers' own tests do so.
    same = [*REQUIRED, "--with_prior_preservation", "--class_prompt", "a dog", "--class_data_dir", "pictures"]
    options = resolve(parse_train(same), recorded=None)
    refuse_half_a_prior(options, {})
    assert any("the class is not preserved" in remark for remark in remarks(options, {}))


def test_a_folder_beside_a_data_set_is_refused_and_columns_without_one_are_remarked() -> None:
    given = parse_train([*REQUIRED, "--dataset_name", "owner/dogs"])
    with pytest.raises(BadInput, match="of instance_data_dir pictures and of dataset_name owner/dogs") as refusal:
        refuse_two_sources(resolve(given, recorded=None), given.sources)
    assert refusal.value.where == "--dataset_name"
    given = parse_train([*REQUIRED, "--caption_column", "text", "--image_column", "photo"])
    said = remarks(resolve(given, recorded=None), given.sources)
    assert [line.split()[0] for line in said] == ["image_column"]
    words = ["--caption_column", "text", "--caption_strategy", "textfile"]
    given = parse_train([*REQUIRED, *words])
    said = remarks(resolve(given, recorded=None), given.sources)
    assert said == ("caption_column has no effect: caption_strategy textfile reads no columns",)


def test_compiling_and_sending_layers_to_the_device_do_not_go_together() -> None:
    with pytest.raises(BadInput, match="offload sends layers to the device while they compute"):
        resolve(parse_train([*REQUIRED, "--offload", "--torch_compile"]), recorded=None)
    given = parse_train([*REQUIRED, "--dynamo_backend", "eager"])
    assert "dynamo_backend has no effect" in remarks(resolve(given, recorded=None), given.sources)[0]
