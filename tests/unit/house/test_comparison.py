"""docs/comparison.md: what stands behind each of our cells exists, and what is missing is said."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from dreambooth_resume.cli.main import COMMANDS
from dreambooth_resume.config.schema import ALIASES, OPTIONS

ROOT = Path(__file__).parents[3]
HEAD = [
    "",
    "dbr",
    "behind it",
    "Diffusers",
    "advanced",
    "SimpleTuner",
    "OneTrainer",
    "ai-toolkit",
    "kohya",
    "AutoTrain",
]
NOTHING = "–"
# Diffusers' two scripts are one project; a cell with one of these words fills nothing.
EMPTY = {NOTHING, "?", "", "no", "dies", "crash", "ignored", "ignored for SDXL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    feature: str
    ours: str
    behind: str
    theirs: tuple[str, ...]

    @property
    def peers(self) -> int:
        """How many other projects have it."""
        script, advanced, *others = self.theirs
        return sum([script not in EMPTY or advanced not in EMPTY, *(cell not in EMPTY for cell in others)])


def _page() -> str:
    return (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")


def _rows() -> list[Row]:
    rows = []
    for line in _page().splitlines():
        if line.startswith("| ") and not line.startswith("| | dbr"):
            feature, ours, behind, *theirs = (cell.strip() for cell in line.strip("|\n ").split("|"))
            rows.append(Row(feature=feature, ours=ours, behind=behind, theirs=tuple(theirs)))
    return rows


ROWS = _rows()
NAMES = [row.feature for row in ROWS]


def test_every_table_has_the_same_columns() -> None:
    heads = [line for line in _page().splitlines() if line.startswith("| | dbr")]
    assert len(heads) >= 7
    for head in heads:
        assert [cell.strip() for cell in head.strip("|").split("|")] == HEAD
    assert len(ROWS) >= 60
    assert len(set(NAMES)) == len(NAMES)
    assert {len(row.theirs) for row in ROWS} == {len(HEAD) - 3}


def _stands(proof: str) -> bool:
    """Is it a test that is there, or a command with the words that it takes?"""
    if proof.startswith("tests/"):
        path, _, name = proof.partition("::")
        file = ROOT / path
        return file.is_file() and (not name or f"def {name}(" in file.read_text(encoding="utf-8"))
    words = shlex.split(proof)
    return len(words) >= 2 and words[0] == "dbr" and words[1] in COMMANDS


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_behind_each_of_our_cells_stands_a_test_or_a_command(row: Row) -> None:
    proofs = re.findall(r"`([^`]+)`", row.behind)
    if row.ours == NOTHING:
        assert not row.behind
        return
    assert proofs
    assert [proof for proof in proofs if not _stands(proof)] == []


@pytest.mark.parametrize("row", [row for row in ROWS if "`" in row.ours], ids=lambda row: row.feature)
def test_options_and_commands_in_our_cells_exist(row: Row) -> None:
    for text in re.findall(r"`([^`]+)`", row.ours):
        words = text.split()
        if words[0] == "dbr":
            assert words[1] in COMMANDS, text
        elif words[0].startswith("--"):
            assert words[0].removeprefix("--") in {*OPTIONS, *ALIASES}, text


def test_what_three_others_have_and_we_do_not_is_said_to_be_missing() -> None:
    missing = [row.feature for row in ROWS if row.ours == NOTHING and row.peers >= 3]
    said = re.findall(r"^- (.+)$", _page().split("## What is not here")[1], re.M)
    assert said == missing


def test_a_proof_that_is_gone_would_be_found() -> None:
    assert not _stands("tests/unit/house/test_none.py")
    assert not _stands("tests/unit/house/test_comparison.py::test_none")
    assert not _stands("dbr none")
    assert _stands("tests/unit/house/test_comparison.py::test_a_proof_that_is_gone_would_be_found")
