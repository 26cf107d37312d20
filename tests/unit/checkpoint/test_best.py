"""Which checkpoint is kept as the best: by scores, else by the held-out loss, and never at the cost of the newest."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis
import pytest
from hypothesis import strategies as st

from dreambooth_resume.checkpoint.best import BestKept, best_of
from dreambooth_resume.checkpoint.retention import to_retire
from dreambooth_resume.errors import AccessDenied, StorageUnavailable
from dreambooth_resume.runs.notes import post_note
from tests.fakes.logs import adopt, commit, log_of
from tests.fakes.memory_storage import MemoryStorage

pytestmark = pytest.mark.quick

LINE = {2: 10, 3: 20, 4: 30}


def test_scores_win_over_losses_and_the_earlier_of_equals_is_the_better() -> None:
    losses = {10: 0.1, 20: 0.2, 30: 0.3}
    assert best_of(LINE, new_step=40, scores={}, val_losses=losses) == 2
    assert best_of(LINE, new_step=40, scores={3: 0.2, 4: 0.2}, val_losses=losses) == 3
    assert best_of(LINE, new_step=40, scores={9: 0.9}, val_losses=losses) == 2  # of a checkpoint that is gone
    assert best_of(LINE, new_step=40, scores={}, val_losses={15: 0.0}) is None  # a step that was never saved


def test_when_the_new_one_is_the_best_no_other_is_kept_for_it() -> None:
    assert best_of(LINE, new_step=40, scores={}, val_losses={10: 0.1, 40: 0.05}) is None


@hypothesis.given(st.integers(1, 4), st.sets(st.integers(2, 8)))
def test_what_is_kept_comes_on_top_of_the_limit(limit: int, keep: set[int]) -> None:
    log = log_of(adopt(), *(commit(step, attempt=1) for step in range(1, 8)))
    retired = set(to_retire(log, total_limit=limit, keep=frozenset(keep)))
    assert not retired & keep
    others = [number for number in log.usable_line() if number not in keep]
    assert set(others) - retired == set(others[max(0, len(others) - (limit - 1)) :])


def test_scores_are_those_of_the_evaluation_that_was_written_to_last() -> None:
    storage = MemoryStorage()
    log = log_of(adopt(), commit(10, attempt=1), commit(20, attempt=1))
    post_note(storage, "score", "x", checkpoint=2, values={"evaluation": "a", "fidelity": 0.9}, nonce="0" * 32)
    post_note(storage, "score", "x", checkpoint=3, values={"evaluation": "a", "fidelity": 0.1}, nonce="1" * 32)
    best = BestKept(storage, is_wanted=True, earlier_losses=lambda: {20: 0.0})
    assert best.keep(log, 30) == {2}
    assert BestKept(storage, is_wanted=False, earlier_losses=lambda: {20: 0.0}).keep(log, 30) == frozenset()


def test_a_storage_that_does_not_answer_costs_the_commit_nothing() -> None:
    class Away(MemoryStorage):
        is_away = True

        def list(self, prefix: str = "") -> tuple[object, ...]:  # type: ignore[override]
            if self.is_away:
                raise StorageUnavailable("away")
            return super().list(prefix)

    log = log_of(adopt(), commit(10, attempt=1), commit(20, attempt=1))
    storage = Away()
    best = BestKept(storage, is_wanted=True, earlier_losses=lambda: {10: 0.1})
    best.observe(20, {"val_loss": 0.2, "loss": 1.0})
    assert best.keep(log, 30) == {2, 3}, "nothing is known, so nothing may go"
    storage.is_away = False
    assert best.keep(log, 30) == {2}
    storage.is_away = True
    assert best.keep(log, 30) == {2}, "what was known stays known"


def test_earlier_losses_are_read_at_the_first_save_and_again_until_the_storage_answers() -> None:
    answers: list[Mapping[int, float] | Exception] = [StorageUnavailable("503"), AccessDenied("403"), {10: 0.1}]

    def earlier() -> Mapping[int, float]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    log = log_of(adopt(), commit(10, attempt=1), commit(20, attempt=1))
    best = BestKept(MemoryStorage(), is_wanted=True, earlier_losses=earlier)
    assert len(answers) == 3, "not at the start"
    assert [best.keep(log, 30) for _ in range(4)] == [{2, 3}, {2, 3}, {2}, {2}]
