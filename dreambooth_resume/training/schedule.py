"""The learning rate as a pure function of the step.

There is no scheduler object, so a resume has no scheduler state to restore: the rate of step s is `schedule.at(s)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dreambooth_resume.config.contradictions import POLYNOMIAL_END
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.errors import BadInput

LrScheduler = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRateSchedule:
    """The learning rate of every step, equal to `diffusers.optimization.get_scheduler` counted in optimizer steps.

    `peak` is the rate after the warm-up (and after `scaled_learning_rate`); `total_steps` what the run is to do in all.
    `num_cycles` matters to cosine_with_restarts alone, `power` to polynomial alone, as in Diffusers. Plain "constant"
    has no warm-up, whatever `warmup_steps` says. Raises BadInput for a polynomial schedule that would have to climb.
    """

    name: LrScheduler
    peak: float
    warmup_steps: int
    total_steps: int
    num_cycles: int = 1
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in get_args(LrScheduler):
            raise BadInput(
                f"no learning rate schedule is called {self.name}",
                where="--lr_scheduler",
                fix=", ".join(get_args(LrScheduler)),
            )
        if self.name == "polynomial" and not self.peak > POLYNOMIAL_END:
            raise BadInput(
                f"the polynomial schedule falls to {POLYNOMIAL_END:g}, which is not below {self.peak:g}",
                where="--lr_scheduler polynomial",
                fix="give a greater --learning_rate or another --lr_scheduler",
            )

    def at(self, step: int) -> float:
        """The rate of the update that turns `step` into `step` + 1."""
        return self.peak * self._factor(step)

    def _factor(self, step: int) -> float:
        if self.name == "constant":
            return 1.0
        if step < self.warmup_steps:
            return step / max(1, self.warmup_steps)
        if self.name == "constant_with_warmup":
            return 1.0
        if self.name == "polynomial":
            return self._polynomial(step)
        decay_steps = max(1, self.total_steps - self.warmup_steps)
        if self.name == "linear":
            return max(0.0, (self.total_steps - step) / decay_steps)
        progress = (step - self.warmup_steps) / decay_steps
        if self.name == "cosine":
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
        if progress >= 1.0:
            return 0.0
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((self.num_cycles * progress) % 1.0))))

    def _polynomial(self, step: int) -> float:
        decay_steps = self.total_steps - self.warmup_steps
        if step > self.total_steps or decay_steps <= 0:
            return POLYNOMIAL_END / self.peak
        remaining = 1 - (step - self.warmup_steps) / decay_steps
        return ((self.peak - POLYNOMIAL_END) * math.pow(remaining, self.power) + POLYNOMIAL_END) / self.peak


def scaled_learning_rate(
    learning_rate: float, *, scale_lr: bool, train_batch_size: int, gradient_accumulation_steps: int, processes: int = 1
) -> float:
    """`--scale_lr`: the rate times the pictures that one update sees, as in Diffusers' script."""
    if not scale_lr:
        return learning_rate
    return learning_rate * gradient_accumulation_steps * train_batch_size * processes


def denoiser_rate(options: TrainOptions, *, processes: int = 1) -> float:
    """The denoiser's learning rate after the warm-up, of a run that was begun with so many processes."""
    chosen, training = options.optimization, options.training
    return scaled_learning_rate(
        chosen.learning_rate,
        scale_lr=chosen.scale_lr,
        train_batch_size=training.train_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        processes=processes,
    )


def schedule_of(options: TrainOptions, peak: float, *, total_steps: int) -> LearningRateSchedule:
    """The run's schedule up to and down from `peak`, over so many steps."""
    chosen = options.optimization
    return LearningRateSchedule(
        name=chosen.lr_scheduler,
        peak=peak,
        warmup_steps=chosen.warmup_steps(total_steps),
        total_steps=total_steps,
        num_cycles=chosen.lr_num_cycles,
        power=chosen.lr_power,
    )
