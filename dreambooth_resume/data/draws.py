"""Which noise a sample gets, and how much: what is drawn for a slot beside its picture, from the slot's own generators.

Without any option of the loss section these are the numbers that every run has drawn since the first release: uniform
timesteps and plain normal noise. Each further number has a draw of its own, so none of them changes another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from dreambooth_resume.config.options.loss import LossOptions, WeightingScheme
from dreambooth_resume.data.prompts import PromptDraws


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """Timesteps from `begin` up to below `end` come `multiplier` times as often as the others."""

    begin: int
    end: int
    multiplier: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timesteps:
    """The timesteps from `begin` up to below `end`, and how often each of them comes.

    `scheme` and `bias` go without each other. Source of both schemes: Esser et al. 2024, arXiv:2403.03206, section 3.1,
    there for flow matching and counted from noise to picture; both are symmetric but for `logit_mean`, which here makes
    timesteps noisier. Source of the bias: Diffusers' SDXL text-to-image script.
    """

    end: int
    begin: int = 0
    scheme: WeightingScheme = "none"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    bias: Bias | None = None

    def draw(self, rng: np.random.Generator) -> np.int64:
        """One timestep, by one number from `rng`."""
        if self.scheme == "none":
            return np.int64(rng.integers(self.begin, self.end)) if self.bias is None else self._biased(rng.random())
        if self.scheme == "logit_normal":
            part = 1.0 / (1.0 + math.exp(-(self.logit_mean + self.logit_std * rng.standard_normal())))
        else:
            uniform = rng.random()
            bow = math.cos(math.pi * uniform / 2) ** 2 - 1 + uniform
            part = 1.0 - uniform - self.mode_scale * bow
        return self._at(self.begin + part * (self.end - self.begin))

    def _biased(self, uniform: float) -> np.int64:
        """The timestep at which the weights, 1 or the multiplier each, have summed up to this part of their sum."""
        assert self.bias is not None
        begin = min(max(self.bias.begin, self.begin), self.end)
        end = min(max(self.bias.end, begin), self.end)
        before, inside = begin - self.begin, (end - begin) * self.bias.multiplier
        summed = uniform * (before + inside + self.end - end)
        if summed < before:
            return self._at(self.begin + summed)
        if summed - before < inside:
            return self._at(begin + (summed - before) / self.bias.multiplier)
        return self._at(end + summed - before - inside)

    def _at(self, place: float) -> np.int64:
        # Rounding may put a number that is nearly 1 at the end.
        return np.int64(min(max(math.floor(place), self.begin), self.end - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How timestep, noise and prompt of a sample are drawn.

    `noise_offset` times a normal number for each channel is added to its noise (Lin's offset noise); the model is shown
    `input_perturbation` times more noise than it is asked for (Ning et al. 2023, arXiv:2301.11706).
    """

    timesteps: Timesteps
    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    prompts: PromptDraws = field(default_factory=PromptDraws)


def draws_of(loss: LossOptions, *, train_timesteps: int, prompts: PromptDraws | None = None) -> Draws:
    """What the options of a run ask for; `train_timesteps` is the base model's number of them."""
    return Draws(
        timesteps=Timesteps(
            begin=loss.min_timestep,
            end=loss.max_timestep or train_timesteps,
            scheme=loss.weighting_scheme,
            logit_mean=loss.logit_mean,
            logit_std=loss.logit_std,
            mode_scale=loss.mode_scale,
            bias=_bias(loss, train_timesteps),
        ),
        noise_offset=loss.noise_offset,
        input_perturbation=loss.input_perturbation,
        prompts=prompts or PromptDraws(),
    )


def _bias(loss: LossOptions, train_timesteps: int) -> Bias | None:
    if (biased := loss.biased_timesteps(train_timesteps)) is None:
        return None
    begin, end = biased
    return Bias(begin=begin, end=end, multiplier=loss.timestep_bias_multiplier)
