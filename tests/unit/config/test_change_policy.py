"""Changes that depend on each other. That each option keeps to its own policy is in test_options.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.config.change_policy import allowed_names, compare, refuse_if_refused, table
from dreambooth_resume.config.contradictions import refuse_shapes_without_buckets
from dreambooth_resume.config.load import parse_train, record, resolve
from dreambooth_resume.config.messages import format_error
from dreambooth_resume.config.options.declaration import ChangePolicy
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]


def _recorded(*argv: str) -> dict[str, object]:
    return record(resolve(parse_train([*REQUIRED, *argv]), recorded=None))


def test_the_same_command_changes_nothing() -> None:
    argv = [*REQUIRED, "--rank", "8", "--lora_alpha", "8", "--resume", "latest", "--output_dir", "moved"]
    assert compare(_recorded("--rank", "8"), parse_train(argv)) == ()


def test_null_for_an_option_that_stands_for_another_is_no_change() -> None:
    given = parse_train(["--lora_alpha", "none", "--mixed_precision", "no"])
    assert compare(_recorded("--rank", "8"), given) == ()


def test_a_run_from_before_there_were_buckets_has_squares() -> None:
    recorded = {name: value for name, value in _recorded().items() if name != "use_aspect_ratio_buckets"}
    assert compare(recorded, parse_train(["--no-use_aspect_ratio_buckets"])) == ()
    (change,) = compare(recorded, parse_train(["--use_aspect_ratio_buckets"]))
    assert (change.before, change.after, change.policy) == (False, True, ChangePolicy.REFUSED)
    assert resolve(parse_train([]), recorded=recorded).data.use_aspect_ratio_buckets is None


def test_shapes_of_buckets_for_a_run_that_has_none_need_buckets_too() -> None:
    old = {name: value for name, value in _recorded().items() if name != "use_aspect_ratio_buckets"}
    shapes = ["--aspect_ratio_buckets", "1024,1024;768,1280", "--allow_change"]
    with pytest.raises(BadInput, match="lists the shapes of buckets, and the run has none") as refusal:
        refuse_shapes_without_buckets(
            resolve(given := parse_train([*shapes, "aspect_ratio_buckets"]), recorded=old), {}
        )
    assert "use_aspect_ratio_buckets,aspect_ratio_buckets" in str(refusal.value.fix)
    both = [*shapes, "use_aspect_ratio_buckets,aspect_ratio_buckets", "--use_aspect_ratio_buckets"]
    refuse_shapes_without_buckets(resolve(parse_train(both), recorded=old), {})
    changes = compare(old, parse_train(both))
    assert [(change.name, change.allowed) for change in changes] == [
        ("use_aspect_ratio_buckets", True),
        ("aspect_ratio_buckets", True),
    ]
    with pytest.raises(BadInput, match="use_aspect_ratio_buckets is off"):
        compare({**old, "use_aspect_ratio_buckets": False}, given)


def test_a_run_from_before_there_were_masks_has_none() -> None:
    recorded = {name: value for name, value in _recorded().items() if name != "masked_training"}
    assert compare(recorded, parse_train(["--no-masked_training"])) == ()
    (change,) = compare(recorded, parse_train(["--masked_training"]))
    assert (change.before, change.after, change.policy) == (False, True, ChangePolicy.NEVER)


def test_same_samples_a_step_in_other_portions_are_applied() -> None:
    changes = compare(_recorded(), parse_train(["--train_batch_size", "2", "--gradient_accumulation_steps", "2"]))
    assert [(change.name, change.policy) for change in changes] == [
        ("train_batch_size", ChangePolicy.APPLIED),
        ("gradient_accumulation_steps", ChangePolicy.APPLIED),
    ]
    refuse_if_refused(changes)


def test_other_number_of_samples_a_step_is_refused() -> None:
    changes = compare(_recorded(), parse_train(["--train_batch_size", "2"]))
    with pytest.raises(BadInput, match=r"train_batch_size 4 \(not 2\)"):
        refuse_if_refused(changes)


def test_epochs_of_a_run_that_counts_steps_are_refused_not_ignored() -> None:
    changes = compare(_recorded("--max_train_steps", "40"), parse_train(["--num_train_epochs", "9"]))
    with pytest.raises(BadInput) as refusal:
        refuse_if_refused(changes)
    assert "max_train_steps 40" in str(refusal.value.fix)


def test_null_for_the_steps_of_a_run_is_no_change_and_hides_no_other() -> None:
    recorded = _recorded("--max_train_steps", "40")
    assert compare(recorded, parse_train(["--max_train_steps", "none"])) == ()
    with pytest.raises(BadInput, match="num_train_epochs 1"):
        refuse_if_refused(compare(recorded, parse_train(["--max_train_steps", "none", "--num_train_epochs", "9"])))


def test_epochs_beside_steps_have_no_effect_and_are_free() -> None:
    given = parse_train(["--num_train_epochs", "9", "--max_train_steps", "60"])
    changes = compare(_recorded("--max_train_steps", "40"), given)
    assert [(change.name, change.policy) for change in changes] == [
        ("num_train_epochs", ChangePolicy.FREE),
        ("max_train_steps", ChangePolicy.APPLIED),
    ]


def test_all_refused_changes_are_named_at_once() -> None:
    given = parse_train(["--lora_alpha", "8", "--resolution", "512", "--learning_rate", "1e-5"])
    with pytest.raises(BadInput) as refusal:
        refuse_if_refused(compare(_recorded(), given))
    assert format_error(refusal.value) == (
        "dbr: --resolution, --lora_alpha: the run has resolution 1024 (not 512), lora_alpha 4.0 (not 8.0)\n"
        "  fix: leave them out to go on as before; start a new run for another picture size; it scales all that was "
        "learned; start a new run; a new run has an output_dir of its own; or add --allow_change "
        "resolution,lora_alpha to go on with the new values from the next step on\n"
        "  more: dbr help bad-input"
    )


def test_line_of_a_change_says_all_of_it() -> None:
    (change,) = compare(_recorded(), parse_train(["--learning_rate", "5e-5"]))
    assert change.line == (
        "learning_rate: 0.0001 -> 5e-05 (--learning_rate): applied: the schedule is computed from the new rate "
        "from the next step on"
    )


def test_what_nothing_allows_offers_no_allow_change() -> None:
    with pytest.raises(BadInput) as refusal:
        refuse_if_refused(compare(_recorded(), parse_train(["--rank", "8", "--resolution", "512"])))
    assert "--allow_change" not in str(refusal.value.fix)


def test_allowed_names_are_a_list_in_yaml_and_commas_or_several_flags_on_a_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("allow_change: [resolution, lr-power]\n")
    several = parse_train(["--allow-change", "resolution", "--allow_change=lr_power"])
    assert several.values == parse_train(["--allow_change", "resolution, lr_power"]).values
    assert several.values == parse_train(["--config", str(file)]).values == {"allow_change": "resolution,lr_power"}


def test_a_flag_of_allowed_names_wins_over_the_file_like_any_flag(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("allow_change: resolution\n")
    given = parse_train(["--config", str(file), "--allow_change", "lr_power"])
    assert allowed_names(given) == {"lr_power"}


def test_a_misspelt_name_is_refused_with_the_right_one() -> None:
    with pytest.raises(BadInput, match="resolutoin is no option") as refusal:
        allowed_names(parse_train(["--allow_change", "resolutoin"]))
    assert refusal.value.fix == "did you mean resolution?"


def test_allowing_one_refused_change_allows_no_other() -> None:
    given = parse_train(["--resolution", "512", "--center_crop", "--allow_change", "resolution"])
    with pytest.raises(BadInput, match=r"^(--center_crop: )?the run has center_crop false \(not true\)"):
        refuse_if_refused(compare(_recorded(), given))


def test_the_table_has_a_line_for_every_change_refused_or_not() -> None:
    given = parse_train(
        ["--rank", "8", "--learning_rate", "5e-5", "--resolution", "512", "--allow_change", "resolution"]
    )
    assert table(compare(_recorded(), given)) == (
        "Given otherwise than the run has it:\n"
        "  option         the run has  given  by               on a resume\n"
        "  resolution     1024         512    --resolution     refused, and allowed: the new value counts from the "
        "next step on\n"
        "  rank           4            8      --rank           never: weights of another rank do not fit; start a "
        "new run\n"
        "  learning_rate  0.0001       5e-05  --learning_rate  applied: the schedule is computed from the new rate "
        "from the next step on"
    )
    assert table(()) == ""
