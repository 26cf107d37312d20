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
    option: str
    is_needed: Callable[[TrainOptions], bool]


PACKAGES = (
    Package(
        name="prodigyopt",
        option="optimizer",
        is_needed=lambda options: options.optimization.optimizer_kind == "prodigy",
    ),
    Package(
        name="bitsandbytes",
        option="use_8bit_adam",
        is_needed=lambda options: options.optimization.optimizer_kind == "AdamW8bit",
    ),
    Package(
        name="xformers",
        option="enable_xformers_memory_efficient_attention",
        is_needed=lambda options: options.training.enable_xformers_memory_efficient_attention,
    ),
)


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
