"""The own options of the skypilot launcher."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from dreambooth_resume.config.options.declaration import NOT_BLANK, free
from dreambooth_resume.launch.base import SETTINGS_CONFIG
from dreambooth_resume.launch.lists import are_variables, listed

_ACCELERATOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?::[1-9][0-9]*)?")


def are_accelerators(value: str) -> str:
    """Raises ValueError for a part that is no GPU's name."""
    wrong = next((part for part in listed(value) if _ACCELERATOR.fullmatch(part) is None), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is no GPU; write L4:1, or several: L4:1,A10G:1")
    return value


class SkyPilotSettings(BaseModel):
    """Machines of any cloud that SkyPilot is set up for."""

    model_config = SETTINGS_CONFIG

    accelerators: Annotated[str, NOT_BLANK, AfterValidator(are_accelerators), free()] = "L4:1"
    """GPUs that will do, in SkyPilot's words, separated by commas: the more, the sooner there is a machine. A resume on
    another kind of GPU is equivalent, not exact."""

    infra: Annotated[str | None, NOT_BLANK, free()] = None
    """Where, in SkyPilot's words: aws, gcp/us-central1, k8s/my-context. null: wherever it is cheapest now."""

    on_demand: Annotated[bool, free()] = False
    """Dearer machines, which the cloud doesn't take away."""

    disk_gb: Annotated[int, Field(ge=30, le=16384), free()] = 100
    """Size of the machine's disk."""

    image_id: Annotated[str | None, NOT_BLANK, free()] = None
    """The machine's image, in SkyPilot's words, such as docker:nvidia/cuda:12.8.1-runtime-ubuntu24.04. null: that of
    SkyPilot."""

    secrets: Annotated[str | None, AfterValidator(are_variables), free()] = None
    """Names of variables of this shell, separated by commas, whose values SkyPilot hands to the job as secrets:
    HF_TOKEN for a gated model; AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY where the machine has no role of its own for
    the bucket. Their values are kept nowhere in the home."""
