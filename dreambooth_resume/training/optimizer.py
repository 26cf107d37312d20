"""Groups of named parameters, the optimizer that updates them, and its whole state by flat names.

A new optimizer is a file in `optimizers/` and a line in OPTIMIZERS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import cast

import torch

from dreambooth_resume.checkpoint.format import Scalars
from dreambooth_resume.config.options.optimization import OptimizationOptions
from dreambooth_resume.training.optimizers.base import BuildOptimizer, ParameterGroup

OPTIMIZERS: dict[str, str] = {
    "AdamW": "dreambooth_resume.training.optimizers.adamw:build",
    "AdamWScheduleFree": "dreambooth_resume.training.optimizers.schedule_free:build",
    "AdamW8bit": "dreambooth_resume.training.optimizers.adamw_8bit:build",
    "Adafactor": "dreambooth_resume.training.optimizers.adafactor:build",
    "Lion": "dreambooth_resume.training.optimizers.lion:build",
    "prodigy": "dreambooth_resume.training.optimizers.prodigy:build",
}
"""`OptimizationOptions.optimizer_kind` -> the function that builds it."""

_NUMBERS = (int, float)


class Optimizer:
    """The parameters of a run in their groups, and what updates them.

    Its state is what `tensors` and `scalars` return together; names are "exp_avg.<parameter>" for a tensor of one
    parameter, "qmap1" for one that all share, "step" for a number of the parameters, "step.<parameter>" where one has
    another (it gets no gradient: the last layer of SDXL's first text encoder), "d.<group>" for a group's number.
    """

    def __init__(self, groups: Sequence[ParameterGroup], options: OptimizationOptions) -> None:
        """Raises ValueError for a parameter that isn't float32, and for a name that two groups have."""
        self.groups = tuple(groups)
        self.parameters = _parameters_by_name(self.groups)
        module, _, function = OPTIMIZERS[options.optimizer_kind].partition(":")
        build = cast(BuildOptimizer, getattr(import_module(module), function))
        self._built = build(self.groups, options)
        self.torch_optimizer = self._built.torch_optimizer

    def rates(self, step: int) -> dict[str, float]:
        """Each group's learning rate in the update that turns `step` into `step` + 1; 0 for one that is at rest."""
        return {group.name: group.schedule.at(step) if group.trains_in(step) else 0.0 for group in self.groups}

    def choose_what_trains(self, step: int) -> None:
        """To be called before the passes of `step`: parameters that are at rest get no gradient, so no update either.

        Neither they nor their moments change from then on, and nothing is computed for their sake.
        """
        for group in self.groups:
            group.choose_what_trains(step)

    def set_rates(self, step: int) -> None:
        """To be called before each update: there is no scheduler that would keep count."""
        for group, rate in zip(self.torch_optimizer.param_groups, self.rates(step).values(), strict=True):
            group["lr"] = rate

    def measured(self, step: int) -> dict[str, float]:
        """What the metrics file gets of the update of `step`: `lr_<group>` for all groups but the first, and more."""
        _, *others = self.rates(step).items()
        first = self.torch_optimizer.param_groups[0]
        return {f"lr_{group}": rate for group, rate in others} | {
            metric: float(first[key]) for metric, key in self._built.metrics.items()
        }

    @property
    def has_averages(self) -> bool:
        """Is the result an average of the parameters, and not they themselves?"""
        return self._built.averages is not None

    def averages(
        self, parameters: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]
    ) -> Mapping[str, torch.Tensor]:
        """What the result is, from such parameters and what `tensors` returned beside them, live or saved."""
        return parameters if self._built.averages is None else self._built.averages(parameters, tensors)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The live tensors of the state, not copies, sorted by name."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            for key, value in self.torch_optimizer.state[parameter].items():
                if isinstance(value, torch.Tensor):
                    tensors[key if key in self._built.shared_state else f"{key}.{name}"] = value
        return dict(sorted(tensors.items()))

    def scalars(self) -> Scalars:
        """The numbers of the state. Floats are Python's, which JSON keeps to the last bit."""
        numbers, most = self._numbers(), dict[str, float]()
        for (key, _), value in numbers.items():
            most[key] = max(value, most.get(key, value))
        scalars: Scalars = {**most}
        scalars.update({f"{key}.{name}": value for (key, name), value in numbers.items() if value != most[key]})
        for group, torch_group in zip(self.groups, self.torch_optimizer.param_groups, strict=True):
            for key in self._built.group_state:
                scalars[f"{key}.{group.name}"] = torch_group[key]
        return dict(sorted(scalars.items()))

    def load(self, tensors: Mapping[str, torch.Tensor], scalars: Scalars) -> None:
        """Overwrite the state, the tensors in place. Raises ValueError unless names, shapes and dtypes are the same."""
        own = self.tensors()
        _refuse_other_names(own.keys() ^ tensors.keys(), "tensors")
        numbers = self._numbers()
        of_one = {f"{key}.{name}" for key, name in numbers}
        _refuse_other_names((self.scalars().keys() - of_one) ^ (scalars.keys() - of_one), "numbers")
        for name, tensor in own.items():
            saved = tensors[name]
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                raise ValueError(
                    f"{name} is {tensor.dtype} {tuple(tensor.shape)}, saved {saved.dtype} {tuple(saved.shape)}"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        for key, name in numbers:
            self.torch_optimizer.state[self.parameters[name]][key] = scalars.get(f"{key}.{name}", scalars[key])
        for group, torch_group in zip(self.groups, self.torch_optimizer.param_groups, strict=True):
            torch_group.update({key: scalars[f"{key}.{group.name}"] for key in self._built.group_state})

    def _numbers(self) -> dict[tuple[str, str], float]:
        """(what it is, the parameter's name) -> every number that the state has for a parameter."""
        return {
            (key, name): value
            for name, parameter in self.parameters.items()
            for key, value in self.torch_optimizer.state[parameter].items()
            if isinstance(value, _NUMBERS)
        }


def _parameters_by_name(groups: Sequence[ParameterGroup]) -> dict[str, torch.nn.Parameter]:
    parameters: dict[str, torch.nn.Parameter] = {}
    for group in groups:
        for name, parameter in group.parameters.items():
            if parameter.dtype != torch.float32:
                raise ValueError(f"{name} is {parameter.dtype}: moments and updates of a trained parameter are float32")
            if name in parameters:
                raise ValueError(f"{name} is in more than one group")
            parameters[name] = parameter
    return parameters


def _refuse_other_names(odd: set[str], what: str) -> None:
    if odd:
        raise ValueError(
            f"{len(odd)} {what} are in the optimizer or in the saved state but not in both, such as {min(odd)}"
        )
