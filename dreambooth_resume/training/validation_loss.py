"""The loss on held-out pictures while training. It changes no bit of the training, and can never end it.

It is measured between an update and the step's line in the metrics, which then holds it: who is killed meanwhile trains
the step again, and measures again. It is the plain mean squared error of what the model predicts, whatever loss trains,
so that runs can be compared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

import torch

from dreambooth_resume.data.held_out import HeldOut
from dreambooth_resume.training.memory import is_out_of_memory, release
from dreambooth_resume.training.preview import Timetable, undisturbed
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.training.step import TrainableModel, micro_batch_loss

logger = logging.getLogger(__name__)

VAL_LOSS = "val_loss"
"""Its name in the metrics file and in trackers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutLoss:
    """What the loss is measured with: `model` has the prompts of the held-out pictures, and the plain objective.

    `modules` are all that computes; within `result_in_place` they have the weights that the result would have.
    """

    model: TrainableModel
    held_out: HeldOut
    modules: Sequence[torch.nn.Module]
    result_in_place: Callable[[], AbstractContextManager[None]]

    def measure(self, *, should_stop: Callable[[], bool], on_progress: Callable[[int, int], None]) -> float | None:
        """The mean over all pictures and noise levels; None if told to stop on the way."""
        losses: list[float] = []
        with ExitStack() as stack:
            stack.enter_context(self.result_in_place())
            for module in self.modules:
                stack.enter_context(undisturbed(module))
            for number in range(len(self.held_out)):
                if should_stop():
                    return None
                on_progress(number, len(self.held_out))
                # One at a time, whatever the micro-batch is now: the sums are then the same always.
                losses.append(micro_batch_loss(self.model, self.held_out[number]).item())
        return sum(losses) / len(losses)


class Validation:
    """Measures when it is time, tells of it, and swallows whatever goes wrong with it."""

    def __init__(
        self, loss: HeldOutLoss, timetable: Timetable, *, should_stop: Callable[[], bool], reporter: Reporter
    ) -> None:
        self._loss = loss
        self._timetable = timetable
        self._should_stop = should_stop
        self._reporter = reporter
        self._said: set[str] = set()

    def due(self, step: int) -> bool:
        return self._timetable.loss_due(step)

    def values(self, step: int) -> dict[str, float]:
        """What the metrics of update number `step` get: the loss, or nothing where it could not be measured."""
        try:
            loss = self._loss.measure(
                should_stop=self._should_stop,
                on_progress=lambda done, total: self._reporter.phase("validation loss", done, total),
            )
        except Exception as error:  # noqa: BLE001
            # Not one of the errors that can happen here is worth a training: out of memory, a library.
            self._say_skipped(step, error)
            return {}
        if loss is None:
            self._reporter.message(f"The validation loss of step {step} is left out: somebody asks for the machine.")
            return {}
        self._reporter.message(f"Step {step}: validation loss {loss:.4f}.")
        return {VAL_LOSS: loss}

    def _say_skipped(self, step: int, error: Exception) -> None:
        kind = type(error).__name__
        logger.info("the validation loss of step %d: %s", step, error, exc_info=True)
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            release()
            kind = "out of memory"
        if kind not in self._said:
            self._said.add(kind)
            self._reporter.message(
                f"The validation loss of step {step} is left out ({kind}). Training goes on and loses nothing; the "
                "same trouble at later steps is not said again."
            )
