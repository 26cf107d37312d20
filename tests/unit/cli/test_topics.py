"""`dbr help TOPIC`: the troubleshooting page in the terminal, by what an error's last line says and by plain words."""

from __future__ import annotations

import pytest

from dreambooth_resume.cli.main import COMMANDS, main
from dreambooth_resume.cli.topics import anchor_of, section
from dreambooth_resume.errors import DbrError

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        (["bad-input"], "### Bad input\nExit 2. "),
        (["out", "of", "memory"], "### Out of memory\n"),
        (["401,", "403"], "### 401, 403\n"),
        (["There is no such folder."], "### `There is no such folder.`\n"),
        (["train"], "usage: dbr train"),
    ],
)
def test_a_heading_or_a_command_is_shown(words: list[str], begins: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", *words]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(begins)
    assert shown.count("\n###") == 0, "one section, and not the next"


def test_what_is_neither_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "out-of-memry"]) == 2
    assert "  fix: dbr help out-of-memory\n" in capsys.readouterr().err


def test_no_command_hides_a_heading_that_errors_name() -> None:
    kinds = [DbrError, *DbrError.__subclasses__()]
    assert not {kind.anchor for kind in kinds} & COMMANDS.keys()
    assert all(section(kind.anchor) for kind in kinds)


def test_headings_are_called_as_in_an_address() -> None:
    assert anchor_of("`import torch` fails, or a resume") == "import-torch-fails-or-a-resume"
