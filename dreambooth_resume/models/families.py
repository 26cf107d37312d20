"""The model families that dbr can train. A new one is a folder beside `sdxl/` and its lines here."""

from __future__ import annotations

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


def family_named(name: str) -> Family:
    """The family of that name. Raises KeyError for a name that isn't in the table."""
    module, _, attribute = FAMILIES[name].partition(":")
    return cast(Family, getattr(import_module(module), attribute)())
