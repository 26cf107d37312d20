"""Packages that only some options need: asked for before a model is loaded, with the command that gets them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package, the option that asks for it, and when it does."""

    name: str
    extra: str | None
    """Of our own package: what brings it along. None: it is to be installed by hand."""
    option: str
    is_needed: Callable[[TrainOptions], bool]


PACKAGES = (
    Package(
        name="prodigyopt",
        extra="prodigy",
        option="optimizer",
        is_needed=lambda options: options.optimization.optimizer_kind == "prodigy",
    ),
    Package(
        name="lion_pytorch",
        extra="lion",
        option="optimizer",
        is_needed=lambda options: options.optimization.optimizer_kind == "Lion",
    ),
    Package(
        name="schedulefree",
        extra="schedulefree",
        option="optimizer",
        is_needed=lambda options: options.optimization.optimizer_kind == "AdamWScheduleFree",
    ),
    Package(
        name="bitsandbytes",
        extra="8bit",
        option="use_8bit_adam",
        is_needed=lambda options: options.optimization.optimizer_kind == "AdamW8bit",
    ),
    Package(
        name="bitsandbytes",
        extra="8bit",
        option="base_precision",
        is_needed=lambda options: options.training.quantised_base in ("nf4", "int8"),
    ),
    Package(
        name="xformers",
        extra=None,
        option="enable_xformers_memory_efficient_attention",
        is_needed=lambda options: options.training.enable_xformers_memory_efficient_attention,
    ),
)

_TRACKER_EXTRAS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "comet_ml": "comet"}


def of_the_numerics(options: TrainOptions) -> tuple[str, ...]:
    """The packages that compute in a run with these options: another release of one may round otherwise."""
    return tuple(sorted({package.name for package in PACKAGES if package.is_needed(options)}))


def extras_for(options: TrainOptions) -> tuple[str, ...]:
    """The extras of our own package that a machine needs for these options."""
    wanted = {package.extra for package in PACKAGES if package.extra is not None and package.is_needed(options)}
    tracker = _TRACKER_EXTRAS.get(options.reporting.report_to)
    return tuple(sorted(wanted | ({tracker} if tracker else set())))


def refuse_missing_packages(
    options: TrainOptions, sources: Mapping[str, str], *, is_installed: Callable[[str], bool] | None = None
) -> None:
    """Raises BadInput for the first package that is needed and not installed."""
    is_installed = is_installed or (lambda name: find_spec(name) is not None)
    for package in PACKAGES:
        if package.is_needed(options) and not is_installed(package.name):
            raise BadInput(
                f"needs the package {package.name}, which is not installed",
                where=sources.get(package.option, package.option),
                fix=f"pip install {package.name}",
            )
