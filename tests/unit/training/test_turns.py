"""The interpreter is handed on quickly while a run trains, and as before once it has ended, however it ended."""

from __future__ import annotations

import sys

import pytest

from dreambooth_resume.training.turns import SWITCH_INTERVAL_SECONDS, short_turns


def test_turns_are_short_in_it_and_what_they_were_after_it() -> None:
    before = sys.getswitchinterval()
    with short_turns():
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_SECONDS)
    assert sys.getswitchinterval() == before


def test_an_error_ends_them_too() -> None:
    before = sys.getswitchinterval()
    with pytest.raises(KeyError), short_turns():
        raise KeyError
    assert sys.getswitchinterval() == before


def test_turns_that_are_shorter_still_are_left_alone() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with short_turns():
            assert sys.getswitchinterval() == pytest.approx(1e-5)
    finally:
        sys.setswitchinterval(before)
