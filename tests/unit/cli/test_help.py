"""The help of `dbr train` fits a screen or two and leaves nothing out; `dbr options` finds by any name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.cli.help import full_help, section_help, short_help
from dreambooth_resume.cli.main import main
from dreambooth_resume.cli.options import found
from dreambooth_resume.config.not_yet import NOT_YET
from dreambooth_resume.config.options.train import SECTIONS
from dreambooth_resume.config.schema import OPTIONS, section_options
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick


def test_train_help_fits_two_screens() -> None:
    lines = short_help().splitlines()
    assert len(lines) <= 90  # every option is named here
    assert max(map(len, lines)) <= 100
    assert short_help().count("  dbr train --") == 3


def test_train_help_names_every_option() -> None:
    assert not [name for name in OPTIONS if name not in short_help()]


def test_common_options_are_about_a_dozen() -> None:
    assert 12 <= len([option for option in OPTIONS.values() if option.common]) <= 16


@pytest.mark.parametrize("section", list(SECTIONS))
def test_section_help_has_its_options_with_all_their_help(section: str) -> None:
    page = "".join(section_help(section).split())  # a line may end behind a dash
    for option in section_options(section):
        assert f"--{option.name}" in page
        assert "".join(option.help.split()) in page


def test_full_help_has_every_option_and_every_name_that_is_not_available_yet() -> None:
    page = full_help()
    assert not [name for name in OPTIONS if f"--{name}" not in page]
    assert not [name for name in NOT_YET if name not in page]
    assert max(map(len, page.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        (["--help"], "usage: dbr train"),
        (["-h"], "usage: dbr train"),
        (["--rank", "8", "--help"], "usage: dbr train"),
        (["--help", "--rank"], "usage: dbr train"),
        (["--help", "data"], "data: "),
        (["--help=lora"], "lora: "),
        (["--help-all"], "usage: dbr train"),
        (["--help_all"], "usage: dbr train"),
    ],
)
def test_help_pages(words: list[str], begins: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words]) == 0
    assert capsys.readouterr().out.startswith(begins)


@pytest.mark.parametrize(("word", "fix"), [("dta", "dbr train --help data"), ("zzz", "one of model, data")])
def test_unknown_section_is_answered(word: str, fix: str) -> None:
    with pytest.raises(BadInput) as refusal:
        section_help(word)
    assert str(refusal.value.fix).startswith(fix)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lr", "lr is what other trainers call learning_rate."),
        ("--save-steps", "--checkpointing_steps INT"),
        ("no-random-flip", "--random_flip, --no-random_flip"),
        ("warm-up", "--learning_rate FLOAT"),
        ("min-SNR", "--snr_gamma FLOAT"),
        ("max_seq_length", "pictures have no sequence length"),
        ("resume", "--resume_from_checkpoint, --resume TEXT"),
    ],
)
def test_options_are_found_by_any_name(word: str, expected: str) -> None:
    assert expected in found(word)


def test_short_word_is_not_found_inside_other_words() -> None:
    assert "resume_request_id" not in found("lr")  # its help says "already"


def test_word_that_is_nowhere_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput) as refusal:
        found("checkpointing_stepz")
    assert refusal.value.fix == "dbr options checkpointing_steps"
    assert main(["options", "zzzz"]) == 2


def test_options_without_a_word_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["options"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(OPTIONS)


def test_config_new_prints_or_writes_and_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "new"]) == 0
    printed = capsys.readouterr().out
    path = tmp_path / "run.yaml"
    assert main(["config", "new", str(path)]) == 0
    assert path.read_text() == printed
    assert f"dbr train --config {path}" in capsys.readouterr().out
    path.write_text("mine")
    assert main(["config", "new", str(path)]) == 2
    assert path.read_text() == "mine"
    assert main(["config", "new", str(tmp_path / "none" / "run.yaml")]) == 2
    assert main(["config"]) == 2
    assert main(["config", "old"]) == 2
