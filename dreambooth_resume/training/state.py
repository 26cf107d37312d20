"""Everything that the next step depends on and that is not a function of the step's number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch

from dreambooth_resume.checkpoint.format import SavedState, Scalars
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.models.lora import load_parameters
from dreambooth_resume.training.optimizer import Optimizer
from dreambooth_resume.training.step import StepMetrics

LORA_PREFIX = "lora."
OPTIMIZER_PREFIX = "optimizer."

_Value = TypeVar("_Value")


class TrainingState:
    """The float32 parameters, the optimizer's state, the step, and what the last step measured.

    Tensors and scalars go by flat names: `lora.<parameter>`, and `optimizer.` before the optimizer's own names.
    """

    def __init__(self, optimizer: Optimizer, *, lr_scheduler: str) -> None:
        self.optimizer = optimizer
        self.parameters = optimizer.parameters
        self.global_step = 0
        self.last: StepMetrics | None = None
        self._lr_scheduler = lr_scheduler

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {
            **{f"{LORA_PREFIX}{name}": parameter.detach() for name, parameter in self.parameters.items()},
            **{f"{OPTIMIZER_PREFIX}{name}": tensor for name, tensor in self.optimizer.tensors().items()},
        }

    def scalars(self) -> Scalars:
        """The optimizer's numbers, and what a resume shows and a reader can compare: schedule and continuity values."""
        measured = self.last
        return {
            "lr_scheduler": self._lr_scheduler,
            "loss": measured.loss if measured else None,
            "grad_norm": measured.grad_norm if measured else None,
            "learning_rate": measured.learning_rate if measured else None,
            **{f"{OPTIMIZER_PREFIX}{name}": number for name, number in self.optimizer.scalars().items()},
        }

    def load(self, saved: SavedState) -> None:
        """Become the saved state. Raises RefusedToGoOn if it is of another adapter."""
        try:
            load_parameters(self.parameters, lora_tensors(saved.tensors))
            self.optimizer.load(
                _without_prefix(saved.tensors, OPTIMIZER_PREFIX), _without_prefix(saved.scalars, OPTIMIZER_PREFIX)
            )
        except ValueError as error:
            raise RefusedToGoOn(
                f"The checkpoint of step {saved.step} does not fit this run's adapter: {error}. Use the base model and "
                "the --rank that the run was begun with."
            ) from error
        self.global_step = saved.step
        self.last = _metrics_of(saved.scalars)


def lora_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter's part of a saved state, under the parameters' own names."""
    return _without_prefix(tensors, LORA_PREFIX)


def _without_prefix(values: Mapping[str, _Value], prefix: str) -> dict[str, _Value]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _metrics_of(scalars: Scalars) -> StepMetrics | None:
    loss, grad_norm, learning_rate = (scalars.get(name) for name in ("loss", "grad_norm", "learning_rate"))
    if isinstance(loss, float) and isinstance(grad_norm, float) and isinstance(learning_rate, float):
        return StepMetrics(loss=loss, grad_norm=grad_norm, learning_rate=learning_rate)
    return None
