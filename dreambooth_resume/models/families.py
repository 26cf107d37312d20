"""The model families that dbr can train. A new one is a folder beside `sdxl/` and its lines here."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import cast

from dreambooth_resume.models.base import Family

FAMILIES: dict[str, str] = {
    "sdxl": "dreambooth_resume.models.sdxl.family:SdxlFamily",
}

PIPELINE_CLASSES: dict[str, str] = {
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
}
"""`_class_name` in a folder's model_index.json -> family."""

ADAPTER_PREFIXES: dict[str, str] = {"unet": "sdxl"}
"""First component of the names of the denoiser's tensors in a LoRA file -> family."""


def family_named(name: str) -> Family:
    """The family of that name. Raises KeyError for a name that isn't in the table."""
    module, _, attribute = FAMILIES[name].partition(":")
    return cast(Family, getattr(import_module(module), attribute)())


def family_of_adapter(names: Iterable[str]) -> Family:
    """The family of an exported adapter, by its tensors' names. Raises ValueError if there is none."""
    for name in names:
        family = ADAPTER_PREFIXES.get(name.partition(".")[0])
        if family is not None:
            return family_named(family)
    raise ValueError("not an adapter that dbr exported")
