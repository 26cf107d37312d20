"""What a file of this folder makes: a torch optimizer whose whole state exists before the first update.

A state at step 0 can then be saved like any other, and a snapshot may keep hold of the tensors: training changes their
values, never which they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.training.schedule import LearningRateSchedule


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay, such as the LoRA of one model.

    `name` is what metrics and messages call it ("unet"); `parameters` go by names that no other group has. From the
    step `pivot_step` on they stay as they are; None: they are trained to the end.
    """

    name: str
    parameters: Mapping[str, torch.nn.Parameter]
    schedule: LearningRateSchedule
    weight_decay: float
    pivot_step: int | None = None

    def trains_in(self, step: int) -> bool:
        """Does the update that turns `step` into `step` + 1 change these parameters?"""
        return self.pivot_step is None or step < self.pivot_step

    def choose_what_trains(self, step: int) -> None:
        """To be called before the passes of `step`: parameters that are at rest get no gradient."""
        if self.pivot_step is not None:
            for parameter in self.parameters.values():
                parameter.requires_grad_(self.trains_in(step))


Averages = Callable[[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
"""(parameters by name, the optimizer's tensors by flat name) -> the averages of the parameters, in new tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A torch optimizer with a parameter group for each of ours, in their order, and where its state lies.

    The state is `torch_optimizer.state[parameter]`: tensors, and numbers that are the same for every parameter that
    gets a gradient. Beside it, `group_state` names the entries of a parameter group that updates change, and
    `shared_state` the tensors that all parameters have together; neither is given by an option.
    """

    torch_optimizer: torch.optim.Optimizer
    group_state: tuple[str, ...] = ()
    shared_state: tuple[str, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Name in the metrics file -> entry of the first parameter group that is written there after each update."""
    averages: Averages | None = None
    """Where the result is not the parameters themselves but an average of theirs."""


class BuildOptimizer(Protocol):
    def __call__(self, groups: Sequence[ParameterGroup], options: OptimizationOptions) -> Built:
        """The optimizer over these groups, its state made. Rates are set before each update, so none is read here."""
        ...


def torch_groups(groups: Sequence[ParameterGroup]) -> list[dict[str, object]]:
    """The groups as torch's optimizers take them."""
    return [{"params": list(group.parameters.values()), "weight_decay": group.weight_decay} for group in groups]


def all_parameters(groups: Sequence[ParameterGroup]) -> list[torch.nn.Parameter]:
    return [parameter for group in groups for parameter in group.parameters.values()]


def zeros_in_one_piece(shapes: Iterable[torch.Size], *, like: torch.Tensor) -> Iterator[torch.Tensor]:
    """Zeros of these shapes side by side in memory: a snapshot then copies them as one, not one by one."""
    shapes = list(shapes)
    sizes = [shape.numel() for shape in shapes]
    pieces = torch.split(torch.zeros(sum(sizes), dtype=torch.float32, device=like.device), sizes)
    return (piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True))
