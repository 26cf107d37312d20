"""Options of the loss section that are wrong, or without effect, together."""

from __future__ import annotations

import pytest

from dreambooth_resume.config.contradictions import remarks
from dreambooth_resume.config.contradictions_loss import (
    refuse_beside_edm,
    refuse_timesteps_beyond,
    remark_on_bias,
)
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]


def resolved(typed: str) -> TrainOptions:
    return resolve(parse_train([*REQUIRED, *typed.split()]), recorded=None)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--debiased_estimation_loss --snr_gamma 5", "are two weightings of one loss"),
        ("--weighting_scheme mode --timestep_bias_strategy later", "two ways to draw the timesteps"),
        ("--min_timestep 500 --max_timestep 500", "min_timestep 500 is not below max_timestep 500"),
        ("--timestep_bias_begin 9 --timestep_bias_end 3", "timestep_bias_begin 9 is not below timestep_bias_end 3"),
        ("--do_edm_style_training --snr_gamma 5", "snr_gamma 5 does not go with EDM-style training"),
        ("--do_edm_style_training --debiased_estimation_loss", "debiased_estimation_loss does not go with EDM"),
        ("--do_edm_style_training --loss_type huber", "loss_type huber does not go with EDM-style training"),
        ("--do_edm_style_training --min_timestep 9", "min_timestep 9 does not go with EDM-style training"),
        ("--do_edm_style_training --input_perturbation 0.1", "input_perturbation 0.1 does not go with EDM"),
    ],
)
def test_contradictions_are_refused(typed: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as refusal:
        resolved(typed)
    assert refusal.value.fix


def test_what_an_edm_model_can_not_have_is_known_when_its_configuration_is_read() -> None:
    with pytest.raises(BadInput, match="weighting_scheme mode does not go with EDM-style training: it is one"):
        refuse_beside_edm(resolved("--weighting_scheme mode"), {}, because="it is one")
    refuse_beside_edm(resolved("--noise_offset 0.1"), {}, because="it is one")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--min_timestep 100", "100 is beyond the base model's 100 timesteps"),
        ("--max_timestep 101", "101 is beyond"),
        ("--timestep_bias_strategy range", "1000 is beyond"),
    ],
)
def test_timesteps_that_the_model_has_not_are_refused(typed: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        refuse_timesteps_beyond(resolved(typed), {}, train_timesteps=100)
    refuse_timesteps_beyond(resolved("--min_timestep 99"), {}, train_timesteps=100)
    refuse_timesteps_beyond(resolved("--max_timestep 100"), {}, train_timesteps=100)


def test_options_without_effect_are_remarked() -> None:
    typed = "--huber_c 0.5 --logit_std 2 --mode_scale 1 --timestep_bias_portion 0.5 --timestep_bias_end 9"
    given = parse_train([*REQUIRED, *typed.split()])
    said = remarks(resolve(given, recorded=None), given.sources)
    names = ["huber_c", "logit_std", "mode_scale", "timestep_bias_portion", "timestep_bias_end"]
    assert sorted(line.split()[0] for line in said) == sorted(names)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", ""),
        ("--timestep_bias_strategy later", ""),
        ("--timestep_bias_strategy range --timestep_bias_begin 100 --timestep_bias_end 300 --min_timestep 100", ""),
        (
            "--timestep_bias_strategy range --timestep_bias_end 200 --min_timestep 200",
            "timestep_bias_strategy range means timesteps 0 to 199, and 200 to 999 are trained: it has no effect.",
        ),
        (
            "--timestep_bias_strategy later --max_timestep 750",
            "timestep_bias_strategy later means timesteps 750 to 999, and 0 to 749 are trained: it has no effect.",
        ),
        (
            "--timestep_bias_strategy earlier --min_timestep 100 --max_timestep 200",
            "timestep_bias_strategy earlier means timesteps 0 to 249, and 100 to 199 are trained: all of them are "
            "drawn alike, so it has no effect.",
        ),
        (
            "--timestep_bias_strategy earlier --min_timestep 100",
            "timestep_bias_strategy earlier means timesteps 0 to 249, and 100 to 999 are trained: it counts for 100 "
            "to 249.",
        ),
    ],
)
def test_a_bias_beside_the_trained_timesteps_is_remarked_on(typed: str, said: str) -> None:
    assert remark_on_bias(resolved(typed), train_timesteps=1000) == said
