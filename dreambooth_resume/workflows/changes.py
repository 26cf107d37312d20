"""What an attempt says about options that it was given otherwise than the run had them, once its step is known."""

from __future__ import annotations

from collections.abc import Sequence

from dreambooth_resume.config.change_policy import OptionChange
from dreambooth_resume.config.messages import plain
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.training.schedule import LearningRateSchedule, denoiser_rate, schedule_of

_OF_THE_RATE = frozenset(
    (
        "learning_rate",
        "scale_lr",
        "lr_scheduler",
        "lr_warmup_steps",
        "lr_warmup_ratio",
        "lr_num_cycles",
        "lr_power",
        "max_train_steps",
    )
)

_ENDLESS = ("constant", "constant_with_warmup")


def what_changes(
    changes: Sequence[OptionChange],
    *,
    before: TrainOptions,
    now: TrainOptions,
    step: int,
    max_train_steps: int,
    processes: int = 1,
) -> list[str]:
    """A line for what holds from `step` on, and one for what that makes of the learning rate."""
    changed = [change for change in changes if change.changes_the_result]
    if not changed:
        return []
    values = ", ".join(f"{change.name} {plain(change.after)} (was {plain(change.before)})" for change in changed)
    lines = [f"Changed from step {step} on: {values}."]
    if _OF_THE_RATE & {change.name for change in changed}:
        was = rate_of(before, before.training.max_train_steps, processes=processes)
        is_now = rate_of(now, max_train_steps, processes=processes)
        lines.append(_rate(was, is_now, step=step))
    return lines


def rate_of(options: TrainOptions, total_steps: int | None, *, processes: int = 1) -> LearningRateSchedule:
    """The learning rate of the run with these options and so many steps."""
    return schedule_of(options, denoiser_rate(options, processes=processes), total_steps=total_steps or 1)


def _rate(was: LearningRateSchedule, is_now: LearningRateSchedule, *, step: int) -> str:
    if was == is_now:
        return f"The learning rate stays as it was: {is_now.at(step):.4g} at step {step}."
    same_but_longer = was.name == is_now.name and was.peak == is_now.peak and was.warmup_steps == is_now.warmup_steps
    if same_but_longer and is_now.name in _ENDLESS:
        return (
            f"The {is_now.name} schedule has no end, so no learning rate changes: {is_now.at(step):.4g} at step {step}."
        )
    how = "stretched" if is_now.total_steps > was.total_steps else "shortened"
    has_an_end = is_now.name not in _ENDLESS and is_now.total_steps != was.total_steps
    end = f", {how} to end at step {is_now.total_steps}" if has_an_end else ""
    rates = f"{was.at(step):.4g} until now, {is_now.at(step):.4g} from here on"
    return f"Learning rate at step {step}: {rates} ({is_now.name}{end})."
