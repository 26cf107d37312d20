"""Options whose package isn't installed are refused with the command that gets it."""

from __future__ import annotations

import pytest

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import BadInput
from dreambooth_resume.training.numerics import compare_fingerprints
from dreambooth_resume.workflows.packages import PACKAGES, of_the_numerics, refuse_missing_packages

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]


def look(*argv: str, installed: tuple[str, ...] = ()) -> None:
    given = parse_train([*REQUIRED, *argv])
    refuse_missing_packages(resolve(given, recorded=None), given.sources, is_installed=lambda name: name in installed)


@pytest.mark.parametrize(
    ("argv", "package"),
    [
        (("--optimizer", "prodigy"), "prodigyopt"),
        (("--optimizer", "Lion"), "lion_pytorch"),
        (("--optimizer", "AdamWScheduleFree"), "schedulefree"),
        (("--use_8bit_adam",), "bitsandbytes"),
        (("--enable_xformers_memory_efficient_attention",), "xformers"),
    ],
)
def test_missing_package_is_named_with_the_command_that_gets_it(argv: tuple[str, ...], package: str) -> None:
    with pytest.raises(BadInput, match=f"needs the package {package}, which is not installed") as refused:
        look(*argv)
    assert refused.value.where == argv[0]
    assert refused.value.fix == f"pip install {package}"
    look(*argv, installed=(package,))


def test_package_of_an_option_without_effect_is_not_asked_for() -> None:
    look()
    look("--optimizer", "prodigy", "--use_8bit_adam", installed=("prodigyopt",))


def test_a_runs_numerics_have_the_packages_that_its_options_need() -> None:
    argv = (*REQUIRED, "--optimizer", "Lion", "--base_precision", "int8")
    assert of_the_numerics(resolve(parse_train(argv), recorded=None)) == ("bitsandbytes", "lion_pytorch")
    assert of_the_numerics(resolve(parse_train(REQUIRED), recorded=None)) == ()


def test_none_of_them_counts_in_a_run_that_was_begun_before_they_were_noted() -> None:
    assert compare_fingerprints({}, {package.name: "1.0" for package in PACKAGES}) == ()
