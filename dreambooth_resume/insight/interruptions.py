"""What interruptions take of a run: by formula for machines that go away at random, and by replaying a trace.

Seconds everywhere. A machine's life is exponentially distributed in the formulas, with the mean that is given.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from dreambooth_resume.errors import BadInput

TRACES = ("calm", "spot", "rough", "evenings")
"""Synthetic ones that are shipped; the first lines of each file say how it was made."""
_ROWS_MAX = 100_000
_LIVES_MAX = 100_000
_LONGEST_SECONDS = 10 * 366 * 86_400.0
_NO_END = "the run would never end: machines go away before it has got anywhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a run saves and comes back.

    `work` is what it takes without saves and interruptions, `interval` lies between two saves, `save` is what one adds
    to the training, `restart` goes from a machine's start to the first new step. It is paid for; `wait` for a machine
    isn't.
    """

    work: float
    interval: float
    save: float
    restart: float
    wait: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. `paid` is time on machines, `wall` has the waiting for one, too."""

    paid: float
    wall: float
    interruptions: float
    lost: float
    """Work that was done twice."""

    def goodput(self, work: float) -> float:
        """The share of the paid time that trained steps which count."""
        return work / self.paid if self.paid else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A machine: how long it was there, how long ahead it said that it goes, and until the next one came."""

    up: float
    notice: float = 0.0
    down: float = 0.0


def best_interval(*, save: float, mean: float) -> float:
    """Seconds between two saves that make a run shortest.

    Source: Daly 2006, "A higher order estimate of the optimum checkpoint interval for restart dumps"; its
    first term is Young's of 1974, sqrt(2 save mean).
    """
    if save >= 2.0 * mean:
        return mean
    share = save / (2.0 * mean)
    return math.sqrt(2.0 * save * mean) * (1.0 + math.sqrt(share) / 3.0 + share / 9.0) - save


def expected(habits: Habits, *, mean: float) -> Outcome | None:
    """A run whose machines go without a word; None if it would never end.

    Source: Daly 2006: paid = mean exp(restart / mean) (exp((interval + save) / mean) - 1) work / interval.
    """
    interval = min(habits.interval, habits.work) or 1.0
    try:
        paid = (
            mean
            * math.exp(habits.restart / mean)
            * math.expm1((interval + habits.save) / mean)
            * habits.work
            / interval
        )
    except OverflowError:
        return None
    if paid > _LONGEST_SECONDS:
        return None
    saves = habits.save * habits.work / interval
    count = paid / mean
    lost = max(0.0, paid - habits.work - saves - habits.restart * count)
    return Outcome(
        paid=habits.restart + paid, wall=habits.restart + paid + count * habits.wait, interruptions=count, lost=lost
    )


def expected_with_notice(habits: Habits, *, mean: float) -> Outcome | None:
    """The same where each goes with a notice that is long enough to save: only the restarts are lost."""
    if habits.restart >= mean:
        return None
    interval = min(habits.interval, habits.work) or 1.0
    busy = habits.work + habits.save * habits.work / interval
    count = busy / (mean - habits.restart)
    paid = habits.restart + busy + count * habits.restart
    return Outcome(paid=paid, wall=paid + count * habits.wait, interruptions=count, lost=0.0)


def replay(lives: Sequence[Life], habits: Habits, *, first: int = 0) -> Outcome | None:
    """Run through a trace from its row `first` on, again and again, to the end; None if it doesn't come to one.

    A notice that is as long as a save takes is heeded: the machine saves at once and leaves.
    """
    done = paid = wall = lost = 0.0
    interval = min(habits.interval, habits.work) or 1.0
    for number in range(_LIVES_MAX):
        life = lives[(first + number) % len(lives)]
        left = habits.work - done
        # As much work as fits: after each interval comes a save, and the last one is the end's.
        needed = habits.restart + left + habits.save * math.ceil(left / interval)
        if needed <= life.up:
            return Outcome(paid=paid + needed, wall=wall + needed, interruptions=float(number), lost=lost)
        is_told = life.notice > 0.0 and life.notice >= habits.save
        trained = max(0.0, life.up - (life.notice if is_told else 0.0) - habits.restart)
        saves, rest = divmod(trained, interval + habits.save)
        durable = saves * interval + (min(rest, interval) if is_told else 0.0)
        worked = saves * interval + min(rest, interval)
        done = min(habits.work, done + durable)
        lost += worked - durable
        paid += life.up
        wall += life.up + life.down
        if wall > _LONGEST_SECONDS:
            return None
    return None


def replay_from_everywhere(lives: Sequence[Life], habits: Habits) -> tuple[Outcome, Outcome] | None:
    """The mean over starts at each row (up to 200 of them), and the worst. None if one does not come to an end."""
    stride = max(1, len(lives) // 200)
    found = [replay(lives, habits, first=first) for first in range(0, len(lives), stride)]
    outcomes = [outcome for outcome in found if outcome is not None]
    if len(outcomes) < len(found):
        return None
    count = len(outcomes)
    mean = Outcome(
        paid=sum(one.paid for one in outcomes) / count,
        wall=sum(one.wall for one in outcomes) / count,
        interruptions=sum(one.interruptions for one in outcomes) / count,
        lost=sum(one.lost for one in outcomes) / count,
    )
    return mean, max(outcomes, key=lambda one: one.wall)


def read_trace(name: str) -> tuple[Life, ...]:
    """The rows of a shipped trace, or of a CSV file with up_seconds and, if known, notice_seconds and down_seconds.

    Lines that begin with # are passed over. Raises BadInput for what isn't one.
    """
    where = f"--trace {name}"
    if name in TRACES:
        text = (files("dreambooth_resume.insight") / f"trace_{name}.csv").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            fix = f"name a CSV file, or one of {', '.join(TRACES)}"
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "no text"
            raise BadInput(f"can't be read: {reason}", where=where, fix=fix) from error
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    rows = csv.DictReader(io.StringIO("\n".join(lines)), skipinitialspace=True)
    if "up_seconds" not in (rows.fieldnames or ()):
        raise BadInput(
            "has no column up_seconds",
            where=where,
            fix="begin it with the line: up_seconds,notice_seconds,down_seconds",
        )
    lives: list[Life] = []
    for row in rows:
        if len(lives) == _ROWS_MAX:
            raise BadInput(f"has more than {_ROWS_MAX:,} rows", where=where, fix="give a shorter trace")
        lives.append(
            Life(
                up=_number(row, "up_seconds", where=where, least=1.0),
                notice=_number(row, "notice_seconds", where=where),
                down=_number(row, "down_seconds", where=where),
            )
        )
    if not lives:
        raise BadInput("has no rows", where=where, fix="a row for each machine: how many seconds it was there")
    return tuple(lives)


def _number(row: dict[str, str], column: str, *, where: str, least: float = 0.0) -> float:
    text = row.get(column)
    if text is None and column != "up_seconds":
        return 0.0
    try:
        value = float(text or "nan")
    except (TypeError, ValueError):
        value = math.nan
    if not least <= value <= _LONGEST_SECONDS:
        raise BadInput(f"{column} is {str(text)[:40]!r}", where=where, fix=f"seconds, {least:g} or more, such as 14400")
    return value


def never_ends(*, where: str) -> BadInput:
    """What is said of a run that interruptions don't let come to an end."""
    return BadInput(_NO_END, where=where, fix="save more often, shorten the start, or take machines that last longer")
