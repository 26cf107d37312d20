"""Everything that the next step depends on and that is not a function of the step's number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch.amp.grad_scaler import GradScaler

from dreambooth_resume.checkpoint.format import SavedState, Scalars
from dreambooth_resume.errors import RefusedToGoOn
from dreambooth_resume.models.lora import load_parameters
from dreambooth_resume.models.new_tokens import ROWS_NAME, is_new_tokens
from dreambooth_resume.training.ema import Ema
from dreambooth_resume.training.optimizer import Optimizer
from dreambooth_resume.training.step import StepMetrics

LORA_PREFIX = "lora."
TOKENS_PREFIX = "tokens."
OPTIMIZER_PREFIX = "optimizer."
EMA_PREFIX = "ema."

_Value = TypeVar("_Value")


class TrainingState:
    """The float32 parameters, the optimizer's state, the step, and what the last step measured.

    Tensors and scalars go by flat names: `lora.<parameter>`, `tokens.<text encoder>` for new tokens' embeddings, and
    `optimizer.` before the optimizer's own names. With an average of the
    parameters `ema.<parameter>`.
    """

    def __init__(
        self, optimizer: Optimizer, *, lr_scheduler: str, scaler: GradScaler | None = None, ema: Ema | None = None
    ) -> None:
        self.optimizer = optimizer
        self.parameters = optimizer.parameters
        self.global_step = 0
        self.last: StepMetrics | None = None
        self._lr_scheduler = lr_scheduler
        self._scaler = scaler
        self._ema = ema

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {
            **{_saved_name(name): parameter.detach() for name, parameter in self.parameters.items()},
            **{f"{OPTIMIZER_PREFIX}{name}": tensor for name, tensor in self.optimizer.tensors().items()},
            **{f"{EMA_PREFIX}{name}": tensor for name, tensor in (self._ema.averages if self._ema else {}).items()},
        }

    def scalars(self) -> Scalars:
        """The optimizer's numbers, and what a resume shows and a reader can compare: schedule and continuity values."""
        measured = self.last
        return {
            "lr_scheduler": self._lr_scheduler,
            "loss": measured.loss if measured else None,
            # A norm that overflowed in float16 is no number of JSON's.
            "grad_norm": measured.grad_norm if measured and math.isfinite(measured.grad_norm) else None,
            "learning_rate": measured.learning_rate if measured else None,
            **{f"{OPTIMIZER_PREFIX}{name}": number for name, number in self.optimizer.scalars().items()},
            **_scaler_scalars(self._scaler),
        }

    def result(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The adapter and the new tokens that such tensors, live or saved, stand for, by the parameters' names.

        That is the parameters themselves, unless an average of theirs is trained.
        """
        if self._ema is not None and (averages := _without_prefix(tensors, EMA_PREFIX)):
            return averages
        return self.optimizer.averages(_parameters(tensors), _without_prefix(tensors, OPTIMIZER_PREFIX))

    @contextmanager
    def result_in_place(self) -> Iterator[None]:
        """The model computes with what the result would be now; afterwards with its parameters, bit for bit.

        Nothing is written to the parameters' memory, which a save may be copying: they point elsewhere meanwhile.
        """
        own = {name: parameter.data for name, parameter in self.parameters.items()}
        result = self.result(self.tensors())
        try:
            for name, parameter in self.parameters.items():
                parameter.data = result[name]
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = own[name]

    def load(self, saved: SavedState) -> None:
        """Become the saved state. Raises RefusedToGoOn if it is of another adapter."""
        try:
            load_parameters(self.parameters, _parameters(saved.tensors))
            self.optimizer.load(
                _without_prefix(saved.tensors, OPTIMIZER_PREFIX), _without_prefix(saved.scalars, OPTIMIZER_PREFIX)
            )
            if self._ema is not None:
                self._ema.load(_without_prefix(saved.tensors, EMA_PREFIX))
        except ValueError as error:
            raise RefusedToGoOn(
                f"The checkpoint of step {saved.step} does not fit this run's adapter: {error}. Use the base model and "
                "the --rank that the run was begun with."
            ) from error
        _load_scaler(self._scaler, saved.scalars)
        self.global_step = saved.step
        self.last = _metrics_of(saved.scalars)


def lora_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter's part of a saved state, under the parameters' own names."""
    return _without_prefix(tensors, LORA_PREFIX)


def result_tokens(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The embeddings of new tokens that a saved state stands for, by what Diffusers calls the text encoder.

    Their average where one is kept. Empty if the state has none.
    """
    trained = _without_prefix(tensors, TOKENS_PREFIX)
    return {encoder: tensors.get(f"{EMA_PREFIX}{encoder}.{ROWS_NAME}", rows) for encoder, rows in trained.items()}


def _parameters(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All that trains, under the parameters' own names."""
    trained = _without_prefix(tensors, TOKENS_PREFIX)
    new_tokens = {f"{encoder}.{ROWS_NAME}": rows for encoder, rows in trained.items()}
    return {**lora_tensors(tensors), **new_tokens}


def _saved_name(parameter: str) -> str:
    if is_new_tokens(parameter):
        return f"{TOKENS_PREFIX}{parameter.removesuffix(f'.{ROWS_NAME}')}"
    return f"{LORA_PREFIX}{parameter}"


def _without_prefix(values: Mapping[str, _Value], prefix: str) -> dict[str, _Value]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _scaler_scalars(scaler: GradScaler | None) -> Scalars:
    """What the scaler's next decision depends on: its scale, and the steps since it last changed."""
    if scaler is None:
        return {}
    facts = scaler.state_dict()
    return {"scaler_scale": facts["scale"], "scaler_growth_tracker": facts["_growth_tracker"]}


def _load_scaler(scaler: GradScaler | None, scalars: Scalars) -> None:
    scale, tracker = scalars.get("scaler_scale"), scalars.get("scaler_growth_tracker")
    if scaler is not None and scale is not None:
        scaler.load_state_dict({**scaler.state_dict(), "scale": scale, "_growth_tracker": tracker})


def _metrics_of(scalars: Scalars) -> StepMetrics | None:
    loss, grad_norm, learning_rate = (scalars.get(name) for name in ("loss", "grad_norm", "learning_rate"))
    if isinstance(loss, float) and isinstance(learning_rate, float):
        norm = grad_norm if isinstance(grad_norm, float) else math.inf
        return StepMetrics(loss=loss, grad_norm=norm, learning_rate=learning_rate)
    return None
