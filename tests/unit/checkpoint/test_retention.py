"""Rule 7 over any history: commits, kills, goings back, damage and changed limits."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from dreambooth_resume.checkpoint.retention import to_retire
from dreambooth_resume.runs.log import Log
from tests.fakes.logs import adopt, commit, log_of

pytestmark = pytest.mark.quick


def grown(log: Log, body: object) -> Log:
    return log_of(*(entry.body for entry in log.entries), body)  # type: ignore[arg-type]


@st.composite
def histories(draw: st.DrawFn) -> tuple[Log, int]:
    """A log that keeps rule 7 with a limit, and that limit."""
    limit = draw(st.integers(1, 4))
    log = log_of(adopt())
    for action in draw(st.lists(st.sampled_from(["save", "save", "save", "kill", "back", "damage"]), max_size=25)):
        usable = log.usable_line()
        if action == "save":
            step = (log.commit(log.line[-1]).step if log.line else 0) + 1
            retire = to_retire(log, total_limit=limit)
            log = grown(log, commit(step, attempt=log.highest_attempt, retire=retire))
        elif action == "kill":
            log = grown(log, adopt(usable[-1] if usable else None))
        elif action == "back" and (usable or log.off_line()):
            log = grown(log, adopt(draw(st.sampled_from([*usable, *log.off_line()]))))
        elif action == "damage" and len(usable) > 1:
            log = grown(log, adopt(usable[-2], set_aside=(usable[-1],)))
    return log, limit


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(histories())
def test_what_a_commit_keeps_is_the_newest_of_the_line_then_what_was_gone_back_over(history: tuple[Log, int]) -> None:
    log, limit = history
    line, off_line = list(log.usable_line()), list(log.off_line())
    retire = set(to_retire(log, total_limit=limit))
    kept_line = [number for number in line if number not in retire]
    kept_off = [number for number in off_line if number not in retire]
    assert retire <= {*line, *off_line}, "nothing twice, nothing set aside, nothing unknown"
    assert len(kept_line) + len(kept_off) == min(limit - 1, len(line) + len(off_line))
    assert kept_line == line[len(line) - len(kept_line) :], "the newest"
    assert kept_off == off_line[len(off_line) - len(kept_off) :]
    assert not kept_off or kept_line == line, "the line goes before what was gone back over"


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(histories())
def test_after_every_commit_as_many_checkpoints_are_usable_as_were_asked_for(history: tuple[Log, int]) -> None:
    log, limit = history
    before = len(log.usable_line()) + len(log.off_line())
    after = grown(log, commit(99, attempt=log.highest_attempt, retire=to_retire(log, total_limit=limit)))
    usable = len(after.usable_line()) + len(after.off_line())
    assert usable == min(limit, before + 1)
    assert after.usable_line()[-1] == after.last.number  # type: ignore[union-attr]


def test_without_a_limit_nothing_is_retired() -> None:
    log = log_of(adopt(), *(commit(step) for step in range(1, 30)))
    assert to_retire(log, total_limit=None) == ()


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_under_one_is_no_limit_to_work_with(limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        to_retire(log_of(adopt()), total_limit=limit)


def test_a_lowered_limit_retires_all_that_is_too_much_at_once() -> None:
    log = log_of(adopt(), *(commit(step) for step in range(1, 6)))
    assert to_retire(log, total_limit=2) == (2, 3, 4, 5)
