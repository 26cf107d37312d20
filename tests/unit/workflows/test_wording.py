"""What a resume promises about its bytes."""

from __future__ import annotations

import pytest

from dreambooth_resume.runs.entries import ChangedOption
from dreambooth_resume.workflows.wording import exactness
from tests.fakes.logs import adopt, commit, log_of

pytestmark = pytest.mark.quick

OTHER_THREADS = ("torch_threads 1 -> 2",)


def change(*, changes_the_result: bool) -> ChangedOption:
    return ChangedOption(
        name="learning_rate", before=1e-4, after=1e-5, policy="applied", changes_the_result=changes_the_result
    )


def test_the_same_bytes_are_promised_to_an_unchanged_run() -> None:
    harmless = adopt(2).model_copy(update={"changes": (change(changes_the_result=False),)})
    assert exactness((), log_of(adopt(), commit(10), harmless)).endswith("so the result has the same bytes.")


def test_they_are_not_promised_when_an_option_was_changed() -> None:
    """Nor by the attempts after the one that was given it."""
    changed = adopt(2).model_copy(update={"changes": (change(changes_the_result=True),)})
    told = exactness((), log_of(adopt(), commit(10), changed, commit(20, attempt=2), adopt(4)))
    assert told.startswith("Exact")
    assert "not the bytes of an unchanged run: attempt 2 changed learning_rate from 0.0001 to 1e-05" in told


def test_this_attempt_says_why_it_is_only_equivalent() -> None:
    assert "Equivalent" in exactness(OTHER_THREADS, log_of(adopt(), commit(10), adopt(2)))


def test_an_attempt_behind_one_that_was_not_exact_is_not_exact_either() -> None:
    inexact = adopt(2).model_copy(update={"not_exact_because": OTHER_THREADS})
    told = exactness((), log_of(adopt(), commit(10), inexact, commit(20, attempt=2), adopt(4)))
    assert told.startswith("Equivalent")
    assert "attempt 2" in told
    assert OTHER_THREADS[0] in told


def test_one_that_was_gone_back_over_does_not_count() -> None:
    inexact = adopt(2).model_copy(update={"not_exact_because": OTHER_THREADS})
    log = log_of(adopt(), commit(10), inexact, commit(20, attempt=2), adopt(2, going_back="10"))
    assert exactness((), log).startswith("Exact")
