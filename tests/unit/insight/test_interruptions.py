"""The formulas are right where they can be simulated, and traces are read, replayed and refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dreambooth_resume.errors import BadInput
from dreambooth_resume.insight.interruptions import (
    TRACES,
    Habits,
    Life,
    best_interval,
    expected,
    expected_with_notice,
    read_trace,
    replay,
    replay_from_everywhere,
)

pytestmark = pytest.mark.quick

HOUR = 3600.0
HABITS = Habits(work=20 * HOUR, interval=600.0, save=30.0, restart=180.0)


def simulated(habits: Habits, mean: float, *, runs: int, seed: int) -> float:
    """The mean paid time of runs whose machines go at random, step by step and without any formula."""
    rng = np.random.default_rng(seed)
    total = 0.0
    for _ in range(runs):
        done, needs_restart, left = 0.0, True, rng.exponential(mean)
        while done < habits.work:
            piece = (habits.restart if needs_restart else 0.0) + habits.interval + habits.save
            if left >= piece:
                left -= piece
                total += piece
                done, needs_restart = done + habits.interval, False
            else:
                total += left
                needs_restart, left = True, rng.exponential(mean)
    return total / runs


@pytest.mark.parametrize("mean", [0.5 * HOUR, 4 * HOUR])
def test_the_expected_time_is_that_of_a_simulation(mean: float) -> None:
    outcome = expected(HABITS, mean=mean)
    assert outcome is not None
    assert outcome.paid == pytest.approx(simulated(HABITS, mean, runs=150, seed=5), rel=0.03)


def test_the_best_interval_is_where_the_expected_time_is_shortest() -> None:
    mean, found = 2 * HOUR, best_interval(save=HABITS.save, mean=2 * HOUR)

    def paid(interval: float) -> float:
        outcome = expected(Habits(work=20 * HOUR, interval=interval, save=HABITS.save, restart=180.0), mean=mean)
        assert outcome is not None
        return outcome.paid

    by_search = min(np.geomspace(10.0, 2 * HOUR, 4000), key=paid)
    assert found == pytest.approx(by_search, rel=0.01)
    # Young's first term, by hand: sqrt(2 x 30 x 7200).
    assert found == pytest.approx(657.3, rel=0.05)
    assert best_interval(save=100.0, mean=40.0) == 40.0


def test_a_notice_that_is_heeded_costs_the_restarts_alone() -> None:
    outcome = expected_with_notice(HABITS, mean=HOUR)
    assert outcome is not None
    busy = 20 * HOUR + 120 * 30.0
    assert outcome.paid - outcome.interruptions * 180.0 - 180.0 == pytest.approx(busy)
    assert outcome.lost == 0.0
    without = expected(HABITS, mean=HOUR)
    assert without is not None
    assert outcome.paid < without.paid


def test_a_run_that_can_never_end_says_so() -> None:
    assert expected(Habits(work=HOUR, interval=HOUR, save=0.0, restart=HOUR), mean=60.0) is None
    assert expected(Habits(work=HOUR, interval=HOUR, save=0.0, restart=1e6), mean=1.0) is None
    assert expected_with_notice(HABITS, mean=100.0) is None
    assert replay([Life(up=100.0)], HABITS) is None


def test_a_trace_is_replayed_to_the_second() -> None:
    habits = Habits(work=1000.0, interval=100.0, save=10.0, restart=50.0, wait=0.0)
    # 50 s start, three intervals with saves in 330 s, and 70 s of the fourth are lost: 450 s. Then 50 s start, and
    # 700 s with seven saves, 820 s in all.
    outcome = replay([Life(up=450.0, down=40.0), Life(up=5000.0)], habits)
    assert outcome is not None
    assert (outcome.interruptions, outcome.lost) == (1, pytest.approx(70.0))
    assert outcome.paid == pytest.approx(450.0 + 820.0)
    assert outcome.wall == pytest.approx(450.0 + 40.0 + 820.0)
    # With 20 s of notice it saves 20 s before the end: 50 s of the fourth interval are done, and none is lost.
    told = replay([Life(up=450.0, notice=20.0), Life(up=5000.0)], habits)
    assert told is not None
    assert told.lost == 0.0
    assert told.paid == pytest.approx(450.0 + 50.0 + 650.0 + 70.0)
    # A notice that is too short for a save is none.
    late = replay([Life(up=450.0, notice=5.0), Life(up=5000.0)], habits)
    assert late is not None
    assert late.lost == pytest.approx(70.0)


def test_replaying_random_machines_comes_to_what_the_formula_says() -> None:
    rng = np.random.default_rng(9)
    lives = [Life(up=max(1.0, float(up))) for up in rng.exponential(HOUR, 4000)]
    replayed = replay_from_everywhere(lives, HABITS)
    formula = expected(HABITS, mean=HOUR)
    assert replayed is not None
    assert formula is not None
    assert replayed[0].paid == pytest.approx(formula.paid, rel=0.05)
    assert replayed[1].wall >= replayed[0].wall


@pytest.mark.parametrize("name", TRACES)
def test_shipped_traces_are_what_their_first_lines_say(name: str) -> None:
    lives = read_trace(name)
    assert len(lives) == 120
    outcome = replay_from_everywhere(lives, HABITS)
    assert outcome is not None
    mean = sum(life.up for life in lives) / len(lives)
    said = {"calm": 86_400, "spot": 14_400, "rough": 2_400, "evenings": (43_200 + 5 * 1_800) / 6}[name]
    assert mean == pytest.approx(said, rel=0.2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no column up_seconds"),
        ("seconds\n5\n", "has no column up_seconds"),
        ("up_seconds\n", "has no rows"),
        ("up_seconds\nlong\n", "up_seconds is 'long'"),
        ("up_seconds\nnan\n", "up_seconds is 'nan'"),
        ("up_seconds\n-5\n", "up_seconds is '-5'"),
        ("up_seconds\n1e99\n", "up_seconds is '1e99'"),
        ("up_seconds,down_seconds\n5,inf\n", "down_seconds is 'inf'"),
        ("up_seconds,notice_seconds\n,3\n", "up_seconds is ''"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(BadInput, match=told) as refused:
        read_trace(str(tmp_path / "trace.csv"))
    assert refused.value.fix


def test_a_trace_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="can't be read") as refused:
        read_trace(str(tmp_path / "none.csv"))
    assert "evenings" in str(refused.value.fix)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="can't be read"):
        read_trace(str(tmp_path / "bytes.csv"))
    (tmp_path / "few.csv").write_text("# mine\nup_seconds\n60\n")
    assert read_trace(str(tmp_path / "few.csv")) == (Life(up=60.0),)
    assert math.isclose(read_trace("rough")[0].up, 264)
