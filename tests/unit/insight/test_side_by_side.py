"""Three runs side by side: what differs between any two of them, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.insight.facts import RunFacts, read_facts
from dreambooth_resume.insight.side_by_side import differing_inputs, differing_options, results
from dreambooth_resume.storage.base import Storage
from tests.unit.insight.test_report import run_in

pytestmark = pytest.mark.quick


def facts_in(home: Path, **options: object) -> RunFacts:
    return facts_of(run_in(home, **options))  # type: ignore[arg-type]


def facts_of(storage: Storage) -> RunFacts:
    found = read_facts(storage)
    assert found is not None
    return found


def test_an_option_that_only_the_third_has_is_among_those_that_differ(tmp_path: Path) -> None:
    runs = [facts_in(tmp_path / "a"), facts_in(tmp_path / "b"), facts_in(tmp_path / "c", rank=8, lora_alpha=16)]
    rows = {row.name: row for row in differing_options(runs)}
    assert set(rows) == {"rank", "lora_alpha"}
    assert rows["rank"].values == (4, 4, 8)
    assert rows["lora_alpha"].values[2] == 16
    assert differing_inputs(runs) == ()
    steps = next(row for row in results(runs) if row.name == "steps")
    assert steps.values == ("80 of 80",) * 3
    assert "cost" not in [row.name for row in results(runs)], "none of them has one"
