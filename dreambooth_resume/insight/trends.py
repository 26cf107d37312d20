"""What a run's curves say that somebody should hear: a loss that doesn't fall, a learning rate that can't train.

Pure functions of what was measured. A diffusion loss is mostly the noise of the timesteps that were drawn, so nothing
is said of a few steps, and what is said names how much of it may be chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from dreambooth_resume.runs.curves import CurvePoint, read_curve
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.record import RunRecord
from dreambooth_resume.storage.base import Storage

FEWEST_STEPS = 200
"""A run of fewer steps is judged by its pictures, not by its loss."""
_WINDOW_PART, _WINDOW_STEPS = 5, (50, 500)
_LEAST_WAY = 1e-3
_HIGHEST_RATE = 1e-2
_ZEROS = 20
_VALIDATIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One thing to look at. `anchor` is the heading of docs/troubleshooting.md that says more."""

    told: str
    to_try: str
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSetting:
    """What decides how far the weights can move."""

    optimizer: str
    learning_rate: float
    max_train_steps: int


def remarks_on(points: Sequence[CurvePoint], setting: RateSetting | None) -> tuple[Remark, ...]:
    """All that there is to say, the most certain first. `points` are one a step, ascending, as far as is known."""
    found = [
        rate_that_cannot_train(setting) if setting else None,
        rate_that_is_zero(points, max_train_steps=setting.max_train_steps) if setting else None,
        over_fitting(points),
        loss_that_does_not_fall(points),
    ]
    return tuple(remark for remark in found if remark is not None)


def look_at(storage: Storage, record: RunRecord, log: Log) -> tuple[Remark, ...]:
    """The remarks on the run in `storage`."""
    changed = log.last.state.changed_options if log.last else {}
    curve = read_curve(storage, log=log, ends_only=True)
    return remarks_on(curve.points, rate_setting({**record.options, **changed}))


def rate_setting(options: Mapping[str, object]) -> RateSetting | None:
    """From a run's options; None where they are those of another release, or scale_lr makes it another rate."""
    optimizer, rate, steps = (options.get(name) for name in ("optimizer", "learning_rate", "max_train_steps"))
    if (
        options.get("scale_lr")
        or not isinstance(optimizer, str)
        or not isinstance(rate, int | float)
        or not isinstance(steps, int)
    ):
        return None
    return RateSetting(optimizer=optimizer, learning_rate=float(rate), max_train_steps=steps)


def loss_that_does_not_fall(points: Sequence[CurvePoint]) -> Remark | None:
    """Compares the mean loss of the first steps and of the newest ones with the chance in both."""
    losses = [(point.step, point.loss) for point in points if math.isfinite(point.loss)]
    if len(losses) < FEWEST_STEPS:
        return None
    shortest, longest = _WINDOW_STEPS
    window = min(longest, max(shortest, len(losses) // _WINDOW_PART))
    first, last = ([loss for _, loss in part] for part in (losses[:window], losses[-window:]))
    chance = math.hypot(stdev(first), stdev(last)) / math.sqrt(window)
    fallen = fmean(first) - fmean(last)
    compared = (
        f"{fmean(first):.4f} in steps {losses[0][0]} to {losses[window - 1][0]}, {fmean(last):.4f} in steps "
        f"{losses[-window][0]} to {losses[-1][0]}, and chance alone makes {2.0 * chance:.4f} of it"
    )
    if fallen > 2.0 * chance:
        return None
    if -fallen > 3.0 * chance and chance > 0.0:
        return Remark(
            told=f"the loss rises: {compared}",
            to_try="go back and lower --learning_rate to a third; look at the pictures first: dbr samples HOME",
            anchor="loss-flat-or-rising",
        )
    return Remark(
        told=f"the loss has not fallen: {compared}",
        to_try="look at the pictures first (dbr samples HOME): they may be right all the same. If not, three times the "
        "--learning_rate, and captions that name the subject (dbr data check)",
        anchor="loss-flat-or-rising",
    )


def over_fitting(points: Sequence[CurvePoint]) -> Remark | None:
    """The loss on held-out pictures was lowest long ago. It is measured with the same noise each time, so it can be
    compared directly.
    """
    measured = [
        (point.step, point.val_loss) for point in points if point.val_loss is not None and math.isfinite(point.val_loss)
    ]
    if len(measured) < 2 * _VALIDATIONS:
        return None
    best_step, best = min(measured, key=lambda pair: pair[1])
    since = [value for step, value in measured if step > best_step]
    if len(since) < _VALIDATIONS or min(since[-_VALIDATIONS:]) <= best * 1.01:
        return None
    return Remark(
        told=f"the loss on held-out pictures was lowest at step {best_step} ({best:.4f}) and is {measured[-1][1]:.4f} "
        f"at step {measured[-1][0]}: what is learned since is these pictures, not the subject",
        to_try=f"compare the pictures of step {best_step} with the newest ones: dbr samples HOME",
        anchor="loss-flat-or-rising",
    )


def rate_that_cannot_train(setting: RateSetting) -> Remark | None:
    """Adam, Lion and their like move a weight by about the learning rate at each step, and hardly further in all than
    the sum of the rates: with that below a thousandth, a LoRA stays what it was. prodigy and Adafactor scale their
    steps themselves, and nothing is said of them.
    """
    if setting.optimizer not in ("AdamW", "Lion", "AdamWScheduleFree"):
        return None
    furthest = setting.learning_rate * setting.max_train_steps
    if furthest < _LEAST_WAY:
        # The rate with which each weight may move by 0.05, as it does with 1e-4 over 500 steps.
        enough = 0.05 / setting.max_train_steps
        return Remark(
            told=f"learning_rate {setting.learning_rate:g} over {setting.max_train_steps:,} steps moves no weight by "
            f"more than {furthest:.1g}: it can't train",
            to_try=f"--learning_rate {enough:.0e} on the next resume",
            anchor="learning-rate-that-cannot-train",
        )
    if setting.learning_rate >= _HIGHEST_RATE:
        return Remark(
            told=f"learning_rate {setting.learning_rate:g} is a hundred times what a LoRA is trained with as a rule: "
            "it learns noise, or gets NaN",
            to_try="begin again with --learning_rate 1e-4",
            anchor="learning-rate-that-cannot-train",
        )
    return None


def rate_that_is_zero(points: Sequence[CurvePoint], *, max_train_steps: int) -> Remark | None:
    """The schedule has come to its end before the run has."""
    newest = [point for point in points[-_ZEROS:] if point.learning_rate == 0.0]
    if len(newest) < _ZEROS or newest[-1].step >= max_train_steps:
        return None
    since = newest[0].step
    for point in reversed(points):
        if point.learning_rate != 0.0:
            break
        since = point.step
    return Remark(
        told=f"the learning rate is 0 since step {since}, and the run goes to step {max_train_steps}: nothing more is "
        "learned",
        to_try="dbr stop HOME, and resume with the --max_train_steps that the schedule was made for",
        anchor="learning-rate-that-cannot-train",
    )
