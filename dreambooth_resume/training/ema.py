"""An average of the weights over the steps, which is then the result (EMA).

The decay is a pure function of the step, so the averages alone are its state. Each follows its parameter:
average <- decay * average + (1 - decay) * parameter, after every update.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dreambooth_resume.models.lora import load_parameters
from dreambooth_resume.training.optimizers.base import zeros_in_one_piece


def decay_at(step: int, *, decay: float) -> float:
    """The decay in the update that turns `step` into `step` + 1: it rises to `decay`, so that the start is forgotten.

    min(decay, (1 + step) / (10 + step)), and 0 for the first update. Source: diffusers.training_utils.EMAModel.
    """
    return 0.0 if step <= 0 else min(decay, (1 + step) / (10 + step))


class Ema:
    """Averages of these parameters, float32, on their device. They begin as the parameters are."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], *, decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        first = next(iter(parameters.values()))
        pieces = zeros_in_one_piece((parameter.shape for parameter in parameters.values()), like=first)
        self.averages: Mapping[str, torch.Tensor] = dict(zip(parameters, pieces, strict=True))
        """The live tensors, by the parameters' names: updates change their values, never which they are."""
        self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """Begin again where the parameters are now."""
        for name, average in self.averages.items():
            average.copy_(self._parameters[name])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the parameters, once the update `step` has changed them."""
        parameters = [self._parameters[name].detach() for name in self.averages]
        torch._foreach_lerp_(list(self.averages.values()), parameters, 1.0 - decay_at(step, decay=self._decay))

    def load(self, values: Mapping[str, torch.Tensor]) -> None:
        """Become the saved averages; without any (they were not kept until now), begin where the parameters are.

        Raises ValueError unless names, shapes and dtypes are the same.
        """
        if values:
            load_parameters(self.averages, values)
        else:
            self.begin()
