"""What a resume promises about its bytes."""

from __future__ import annotations

import pytest

from dreambooth_resume.config.change_policy import OptionChange
from dreambooth_resume.config.options.declaration import ChangePolicy
from dreambooth_resume.workflows.wording import exactness
from tests.fakes.logs import adopt, commit, log_of

pytestmark = pytest.mark.quick

OTHER_THREADS = ("torch_threads 1 -> 2",)


def change(policy: ChangePolicy) -> OptionChange:
    return OptionChange(name="learning_rate", before=1e-4, after=1e-5, policy=policy, where="--lr", advice=None)


def test_the_same_bytes_are_promised_to_an_unchanged_run() -> None:
    log = log_of(adopt(), commit(10), adopt(2))
    assert exactness((), log, (change(ChangePolicy.FREE),)).endswith("so the result has the same bytes.")


def test_they_are_not_promised_when_an_option_was_changed() -> None:
    told = exactness((), log_of(adopt(), commit(10), adopt(2)), (change(ChangePolicy.APPLIED),))
    assert told.startswith("Exact")
    assert "same bytes" not in told


def test_this_attempt_says_why_it_is_only_equivalent() -> None:
    assert "Equivalent" in exactness(OTHER_THREADS, log_of(adopt(), commit(10), adopt(2)), ())


def test_an_attempt_behind_one_that_was_not_exact_is_not_exact_either() -> None:
    inexact = adopt(2).model_copy(update={"not_exact_because": OTHER_THREADS})
    told = exactness((), log_of(adopt(), commit(10), inexact, commit(20, attempt=2), adopt(4)), ())
    assert told.startswith("Equivalent")
    assert "attempt 2" in told
    assert OTHER_THREADS[0] in told


def test_one_that_was_gone_back_over_does_not_count() -> None:
    inexact = adopt(2).model_copy(update={"not_exact_because": OTHER_THREADS})
    log = log_of(adopt(), commit(10), inexact, commit(20, attempt=2), adopt(2, going_back="10"))
    assert exactness((), log, ()).startswith("Exact")
