"""From flags and YAML to options: precedence, forms of a value, what a resume takes from the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.config.load import GivenOptions, parse_train, record, resolve, with_values
from dreambooth_resume.config.messages import format_error
from dreambooth_resume.config.options import declaration
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.errors import BadInput, RefusedToGoOn

pytestmark = pytest.mark.quick

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]
CANARY = "hf_CANARY_do_not_show"


def _file(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return ["--config", str(path)]


def test_flag_wins_over_the_file_wherever_it_stands(tmp_path: Path) -> None:
    config = _file(tmp_path, "rank: 8\nseed: 3\n")
    for argv in (["--rank", "16", *config], [*config, "--rank", "16"]):
        given = parse_train(argv)
        assert given.values == {"rank": 16, "seed": 3}
        assert given.sources == {"rank": "--rank", "seed": f"{config[1]}:2: seed"}
        assert given.config_file == Path(config[1])


def test_only_what_was_given_is_given() -> None:
    given = parse_train([])
    assert given == GivenOptions(values={}, sources={}, config_file=None)
    assert given.value("output_dir") == "lora-dreambooth-model"


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--random_flip"], True),
        (["--random-flip"], True),
        (["--no-random_flip"], False),
        (["--no_random_flip"], False),
        (["--random_flip", "true"], True),
        (["--random-flip", "False"], False),
        (["--random_flip=false"], False),
        (["--random_flip", "--rank", "4"], True),
        (["--random_flip", "--no-random-flip"], False),
    ],
)
def test_bool_flags(argv: list[str], value: bool) -> None:
    assert parse_train(argv).values["random_flip"] is value


@pytest.mark.parametrize(
    "flag", ["--max_train_steps", "--max-train-steps", "--max-train_steps", "--num-steps", "--num_steps"]
)
def test_dashes_underscores_and_short_names_mean_the_same(flag: str) -> None:
    assert parse_train([flag, "40"]).values == parse_train([f"{flag}=40"]).values == {"max_train_steps": 40}
    assert parse_train([flag, "40"]).sources == {"max_train_steps": flag}


def test_no_flag_may_be_cut_short() -> None:
    with pytest.raises(BadInput, match="unknown option"):
        parse_train(["--checkpoints_total", "2"])


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", '"1e-4"', "1E-4"])
def test_yaml_numbers_with_an_exponent_are_numbers(tmp_path: Path, text: str) -> None:
    assert parse_train(_file(tmp_path, f"learning_rate: {text}\n")).values == {"learning_rate": 1e-4}


def test_yaml_words_that_yaml_takes_for_bools_are_words(tmp_path: Path) -> None:
    given = parse_train(_file(tmp_path, "mixed_precision: no\nresume: 500\nrandom_flip: yes\noptimizer: adamw\n"))
    assert given.values == {
        "mixed_precision": "no",
        "resume_from_checkpoint": "500",
        "random_flip": True,
        "optimizer": "AdamW",
    }


def test_yaml_keys_with_dashes_and_short_names(tmp_path: Path) -> None:
    assert parse_train(_file(tmp_path, "num-steps: 3\n")).values == {"max_train_steps": 3}


def test_empty_file_gives_nothing(tmp_path: Path) -> None:
    assert parse_train(_file(tmp_path, "# nothing\n")).values == {}


def test_null_takes_a_limit_away_and_is_no_value_for_the_seed(tmp_path: Path) -> None:
    given = parse_train(_file(tmp_path, "checkpoints_total_limit: null\nseed: null\ntorch_threads:\n"))
    assert given.values == {"checkpoints_total_limit": None}
    assert parse_train(["--checkpoints_total_limit", "none"]).values == {"checkpoints_total_limit": None}


def test_tilde_is_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    assert parse_train(["--output_dir=~/dog"]).values == {"output_dir": "/home/user/dog"}
    assert parse_train(["--output_dir=s3://bucket/~dog"]).values == {"output_dir": "s3://bucket/~dog"}


def test_negative_number_is_a_value_and_out_of_range() -> None:
    with pytest.raises(BadInput, match="-1 is too small"):
        parse_train(["--seed", "-1"])


def test_seed_has_64_bits() -> None:
    assert parse_train(["--seed", str(2**64 - 1)]).values == {"seed": 2**64 - 1}
    with pytest.raises(BadInput, match="too large: it must be at most 18446744073709551615"):
        parse_train(["--seed", str(2**64)])


@pytest.mark.parametrize(("typed", "kept"), [("latest", "latest"), ("Latest", "latest"), ("300", "300")])
def test_resume_takes_latest_a_step_or_a_checkpoints_name(typed: str, kept: str) -> None:
    assert parse_train(["--resume", typed]).values == {"resume_from_checkpoint": kept}
    assert parse_train(["--resume", "checkpoint-20-a2"]).values == {"resume_from_checkpoint": "checkpoint-20-a2"}
    # A checkpoint of Diffusers' own script, looked at later.
    assert parse_train(["--resume", "out/checkpoint-6"]).values == {"resume_from_checkpoint": "out/checkpoint-6"}


@pytest.mark.parametrize("typed", ["0", "-3", "checkpoint-0", "checkpoint-6.tmp", "yes", ""])
def test_resume_refuses_anything_else(typed: str) -> None:
    with pytest.raises(BadInput):
        parse_train([f"--resume={typed}"])


def test_first_start_takes_defaults() -> None:
    options = resolve(parse_train(REQUIRED), recorded=None)
    assert options.data.instance_prompt == "a dog"
    assert options.training.train_batch_size == 4
    assert options.lora.alpha == 4.0
    assert options.training.precision == "no"


def test_first_start_names_everything_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="instance_data_dir and instance_prompt") as from_flags:
        resolve(parse_train(REQUIRED[:2]), recorded=None)
    assert "--instance_data_dir" in str(from_flags.value.fix)
    config = _file(tmp_path, "rank: 4\n")
    with pytest.raises(BadInput) as from_file:
        resolve(parse_train(config), recorded=None)
    assert from_file.value.where == config[1]


def test_resume_takes_the_runs_values_and_not_the_defaults() -> None:
    recorded = record(resolve(parse_train([*REQUIRED, "--rank", "8", "--seed", "5"]), recorded=None))
    options = resolve(parse_train(["--resume", "latest", "--learning_rate", "5e-5"]), recorded=recorded)
    assert (options.lora.rank, options.lora.lora_alpha, options.training.seed) == (8, 8.0, 5)
    assert options.optimization.learning_rate == 5e-5
    assert options.checkpoints.resume_from_checkpoint == "latest"


def test_record_writes_out_what_stands_for_another_value() -> None:
    recorded = record(resolve(parse_train([*REQUIRED, "--rank", "8"]), recorded=None))
    assert (recorded["lora_alpha"], recorded["mixed_precision"]) == (8.0, "no")
    assert "output_dir" not in recorded
    assert "resume_from_checkpoint" not in recorded


def test_record_of_a_resolved_record_is_the_same() -> None:
    recorded = record(resolve(parse_train([*REQUIRED, "--seed", "5"]), recorded=None))
    assert record(resolve(parse_train([]), recorded=recorded)) == recorded


def test_record_of_an_older_version_lacks_newer_options() -> None:
    recorded = record(resolve(parse_train(REQUIRED), recorded=None))
    del recorded["repeats"]
    assert resolve(parse_train([]), recorded=recorded).data.repeats == 1


@pytest.mark.parametrize("change", [{"warp_drive": 9}, {"optimizer": "sgd"}, {"rank": 0}])
def test_record_of_a_newer_version_is_refused_with_78(change: dict[str, object]) -> None:
    recorded = record(resolve(parse_train(REQUIRED), recorded=None)) | change
    with pytest.raises(RefusedToGoOn, match=f"{next(iter(change))}.*version"):
        resolve(parse_train([]), recorded=recorded)


def test_with_values_keeps_the_others() -> None:
    options = resolve(parse_train([*REQUIRED, "--rank", "8"]), recorded=None)
    seeded = with_values(options, {"seed": 2**63})
    assert (seeded.training.seed, seeded.lora.rank, options.training.seed) == (2**63, 8, None)


@pytest.mark.parametrize("form", ["--hub_token={0}", "--hub_token {0}", "yaml"])
def test_a_token_that_is_taken_is_neither_recorded_nor_shown(form: str, tmp_path: Path) -> None:
    argv = _file(tmp_path, f"hub_token: {CANARY}\n") if form == "yaml" else form.format(CANARY).split()
    options = resolve(parse_train([*argv, *REQUIRED]), recorded=None)
    assert options.reporting.hub_token == CANARY
    assert CANARY not in repr(options) + str(record(options))
    with pytest.raises(BadInput) as refusal:
        resolve(parse_train([*argv, *REQUIRED, "--report_to", "wandb"]), recorded=None)
    assert CANARY not in format_error(refusal.value)


@pytest.mark.parametrize("name", ["hub_tokn", "hf_token", "api_key"])
@pytest.mark.parametrize("form", ["--{0}={1}", "--{0} {1}", "--rank 4 --{0} {1}", "yaml", "broken yaml"])
def test_no_token_is_ever_shown(name: str, form: str, tmp_path: Path) -> None:
    texts = {"yaml": f"{name}: {CANARY}\n", "broken yaml": f"rank: 4\n{name}: '{CANARY}\n"}
    argv = _file(tmp_path, texts[form]) if form in texts else form.format(name, CANARY).split()
    with pytest.raises(BadInput) as refusal:
        parse_train(argv)
    told = format_error(refusal.value) + repr(refusal.value) + repr(refusal.value.__context__)
    assert CANARY not in told
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


def test_secret_option_would_be_neither_recorded_nor_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from dreambooth_resume.config import load, values

    secret = replace(OPTIONS["variant"], name="hub_token", choices=("a",), kind="choice", annotation=int)
    with pytest.raises(BadInput) as refusal:
        values.checked(secret, CANARY, where="--hub_token")
    assert CANARY not in format_error(refusal.value)

    monkeypatch.setattr(load, "is_secret", lambda name: name == "variant")
    options = resolve(parse_train([*REQUIRED, "--variant", CANARY]), recorded=None)
    assert CANARY not in str(record(options))


def test_a_field_without_a_declaration_is_a_mistake_in_the_schema() -> None:
    from pydantic.fields import FieldInfo

    with pytest.raises(TypeError, match="declares"):
        declaration.declaration_of(FieldInfo(annotation=int))
