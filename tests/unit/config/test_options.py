"""What must hold for every option, now and when one is added."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.config.change_policy import compare, refuse_if_refused
from dreambooth_resume.config.load import GivenOptions, parse_train, record, resolve, with_values
from dreambooth_resume.config.option import Option, is_secret
from dreambooth_resume.config.options.declaration import ChangePolicy
from dreambooth_resume.config.options.train import SECTIONS, TrainOptions
from dreambooth_resume.config.schema import OPTIONS, assemble, flatten, section_options
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]
EACH_OPTION = pytest.mark.parametrize("name", list(OPTIONS))
# An option with one value can't change; those that aren't recorded have nothing to be compared with.
CHANGEABLE = [name for name, option in OPTIONS.items() if len(option.choices) != 1]
EACH_OF_THE_RUN = pytest.mark.parametrize("name", [name for name in CHANGEABLE if OPTIONS[name].recorded])

# The defaults of Diffusers' script, read from its parser.
SCRIPT_DEFAULTS: dict[str, Any] = {
    "pretrained_vae_model_name_or_path": None,
    "revision": None,
    "variant": None,
    "cache_dir": None,
    "repeats": 1,
    "instance_data_dir": None,
    "dataset_name": None,
    "dataset_config_name": None,
    "image_column": "image",
    "caption_column": None,
    "class_data_dir": None,
    "class_prompt": None,
    "with_prior_preservation": False,
    "prior_loss_weight": 1.0,
    "num_class_images": 100,
    "sample_batch_size": 4,
    "prior_generation_precision": None,
    "output_dir": "lora-dreambooth-model",
    "seed": None,
    "resolution": 1024,
    "center_crop": False,
    "random_flip": False,
    "train_batch_size": 4,
    "num_train_epochs": 1,
    "max_train_steps": None,
    "checkpoints_total_limit": None,
    "resume_from_checkpoint": None,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "learning_rate": 1e-4,
    "scale_lr": False,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 500,
    "lr_num_cycles": 1,
    "lr_power": 1.0,
    "dataloader_num_workers": 0,
    "optimizer": "AdamW",
    "use_8bit_adam": False,
    "snr_gamma": None,
    "do_edm_style_training": False,
    "enable_xformers_memory_efficient_attention": False,
    "prodigy_beta3": None,
    "prodigy_decouple": True,
    "prodigy_use_bias_correction": True,
    "prodigy_safeguard_warmup": True,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_weight_decay": 1e-4,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "allow_tf32": False,
    "mixed_precision": None,
    "local_rank": -1,
    "rank": 4,
    "lora_dropout": 0.0,
    "image_interpolation_mode": "lanczos",
}


def _first_record() -> dict[str, object]:
    """What run.json of a run with defaults holds, read back from JSON as a resume does."""
    options = with_values(resolve(parse_train(REQUIRED), recorded=None), {"seed": 5, "torch_threads": 2})
    values: dict[str, object] = json.loads(json.dumps(record(options)))
    return values


def _another_value(option: Option) -> object:
    """A valid value that differs from the one in `_first_record`."""
    if option.kind == "bool":
        return not option.default
    if option.kind == "choice":
        return next(choice for choice in reversed(option.choices) if choice != option.default)
    if option.name == "resolution":
        return 512
    if option.name == "local_rank":
        return 0
    if option.name == "resume_from_checkpoint":
        return "latest"
    if option.name == "allow_change":
        return "resolution"
    if option.name == "storage_uri":
        return "s3://bucket/dog"
    if option.name == "aspect_ratio_buckets":
        return "1024,1024;1216,832"
    if option.name == "deadline":
        return "25m"
    if option.name == "notify":
        return "https://example.org/hook"
    if option.name in ("rank_pattern", "alpha_pattern"):
        return "mid_block=2"
    if option.kind == "text":
        return "another"
    if option.kind == "int":
        return 7
    return 0.5 if option.default == 0.25 else 0.25


def _given(values: dict[str, object]) -> GivenOptions:
    return GivenOptions(values=values, sources={name: f"--{name}" for name in values}, config_file=None)


@EACH_OPTION
def test_option_has_help_that_reads_as_sentences(name: str) -> None:
    text = OPTIONS[name].help
    assert text.endswith(".")
    assert len(text) > 10
    assert len(OPTIONS[name].first_sentence) < 160


@EACH_OPTION
def test_option_declares_a_policy_and_says_what_to_do(name: str) -> None:
    option = OPTIONS[name]
    assert (option.advice is None) == (option.policy is ChangePolicy.FREE)
    assert "\n" not in (option.advice or "")
    # What an attempt or a machine decides for itself can't be compared with the run.
    assert option.recorded or option.policy is ChangePolicy.FREE


@EACH_OF_THE_RUN
def test_changed_option_is_treated_as_its_policy_says(name: str) -> None:
    option = OPTIONS[name]
    value = _another_value(option)
    changes = compare(_first_record(), _given({name: value}))
    (change,) = changes
    assert (change.name, change.policy, change.where) == (name, option.policy, f"--{name}")
    assert change.after == value
    assert f"{name}: " in change.line
    if option.policy in (ChangePolicy.REFUSED, ChangePolicy.NEVER):
        with pytest.raises(BadInput, match=name) as refusal:
            refuse_if_refused(changes)
        assert option.advice is not None
        assert option.advice in str(refusal.value.fix)
        assert ("--allow_change" in str(refusal.value.fix)) == (option.policy is ChangePolicy.REFUSED)
    else:
        refuse_if_refused(changes)


@EACH_OF_THE_RUN
def test_only_what_is_refused_can_be_allowed(name: str) -> None:
    option = OPTIONS[name]
    given = _given({name: _another_value(option), "allow_change": name})
    if option.policy is ChangePolicy.NEVER:
        with pytest.raises(BadInput, match=f"{name} can't be allowed to change"):
            compare(_first_record(), given)
        return
    (change,) = compare(_first_record(), given)
    assert change.allowed == (option.policy is ChangePolicy.REFUSED)
    assert change.changes_the_result == (option.policy is not ChangePolicy.FREE)
    refuse_if_refused((change,))


def test_options_of_one_attempt_are_never_a_change() -> None:
    values = {name: _another_value(option) for name, option in OPTIONS.items() if not option.recorded}
    assert len(values) > 5
    assert compare(_first_record(), _given(values)) == ()


@EACH_OF_THE_RUN
def test_option_that_was_not_given_keeps_the_runs_value(name: str) -> None:
    option = OPTIONS[name]
    recorded = _first_record() | {name: _another_value(option)}
    assert compare(recorded, _given({})) == ()
    assert record(resolve(_given({}), recorded=recorded))[name] == _another_value(option)


@EACH_OPTION
def test_option_is_recorded_or_not_as_it_declares(name: str) -> None:
    assert (name in _first_record()) == OPTIONS[name].recorded


@EACH_OPTION
def test_default_is_valid(name: str) -> None:
    option = OPTIONS[name]
    if not option.required:
        assert option.validated(option.default) == option.default


@pytest.mark.parametrize("name", CHANGEABLE)
def test_text_on_a_command_line_gives_the_value_that_yaml_gives(name: str, tmp_path: Path) -> None:
    option = OPTIONS[name]
    value = _another_value(option)
    file = tmp_path / "run.yaml"
    file.write_text(f"{name}: {json.dumps(value)}\n")
    typed = [f"--{name}={json.dumps(value) if option.kind == 'bool' else value}"]
    assert parse_train(typed).values == parse_train(["--config", str(file)]).values == {name: value}


@pytest.mark.parametrize("name", list(SCRIPT_DEFAULTS))
def test_default_is_that_of_diffusers_script(name: str) -> None:
    assert OPTIONS[name].default == SCRIPT_DEFAULTS[name]


def test_two_options_are_required_and_pictures_of_one_kind() -> None:
    required = [name for name, option in OPTIONS.items() if option.required]
    assert required == ["pretrained_model_name_or_path", "instance_prompt"]
    typed = ["--pretrained_model_name_or_path", "model", "--instance_prompt", "a dog"]
    with pytest.raises(BadInput, match="a new run needs instance_data_dir"):
        resolve(parse_train(typed), recorded=None)
    assert resolve(parse_train([*typed, "--dataset_name", "owner/dogs"]), recorded=None).data.instance_data_dir is None


def test_sections_are_the_fields_of_train_options_in_order() -> None:
    assert list(SECTIONS) == list(TrainOptions.model_fields)
    assert [option.name for section in SECTIONS for option in section_options(section)] == list(OPTIONS)


def test_flat_values_and_sections_are_the_same_options() -> None:
    options = resolve(parse_train([*REQUIRED, "--rank", "8"]), recorded=None)
    assert options.lora.rank == 8
    assert assemble(flatten(options)) == options


def test_options_are_frozen() -> None:
    options = resolve(parse_train(REQUIRED), recorded=None)
    with pytest.raises(ValueError, match="frozen"):
        options.lora.rank = 8  # type: ignore[misc]


def test_secret_names_are_never_recorded() -> None:
    assert is_secret("hub_token")
    assert not [name for name, option in OPTIONS.items() if is_secret(name) and option.recorded]
