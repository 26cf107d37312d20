"""The own options of the hf-jobs launcher."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from dreambooth_resume.config.options.declaration import NOT_BLANK, free
from dreambooth_resume.config.options.preemption import duration_seconds
from dreambooth_resume.launch.base import SETTINGS_CONFIG
from dreambooth_resume.launch.lists import are_variables

_SHORTEST_SECONDS = 600.0
_KEPT_PART, _KEPT_AT_MOST_SECONDS = 0.25, 1800.0


def _is_long_enough(value: str) -> str:
    if duration_seconds(value) < _SHORTEST_SECONDS:
        raise ValueError("is too short: installing and loading alone take minutes; write 10m or more")
    return value


def deadline_after(timeout_seconds: float) -> float:
    """When the training is to be through: a quarter of the timeout is kept for installing, loading and the last save.

    Never more than half an hour is kept: those take no longer where the timeout is.
    """
    return timeout_seconds - min(timeout_seconds * _KEPT_PART, _KEPT_AT_MOST_SECONDS)


class HfJobsSettings(BaseModel):
    """Machines of Hugging Face Jobs."""

    model_config = SETTINGS_CONFIG

    flavor: Annotated[str, NOT_BLANK, free()] = "l4x1"
    """Kind of machine; `hf jobs hardware` lists them with their prices. A resume on another kind of GPU is equivalent,
    not exact."""

    timeout: Annotated[str, AfterValidator(_is_long_enough), free()] = "4h"
    """How long one attempt may take at most: 90m, 4h. The Hub gives no notice, so the training itself leaves before
    that: a quarter of it, at most half an hour, is kept for installing, loading and the last save."""

    attempts: Annotated[int, Field(ge=1, le=100), free()] = 3
    """How often the Hub starts the job at most, the first time included: after its time was over, or its machine was
    lost. Each attempt goes on from the last save, and each is paid for."""

    namespace: Annotated[str | None, NOT_BLANK, free()] = None
    """The user or organisation that pays. null: whose token it is."""

    secrets: Annotated[str | None, AfterValidator(are_variables), free()] = (
        "HF_TOKEN,AWS_ACCESS_KEY_ID,AWS_SECRET_ACCESS_KEY"
    )
    """Names of variables of this shell, separated by commas, whose values the job gets as secrets of the Hub: the keys
    of the bucket, since a machine of the Hub has no role of its own, and the token. For HF_TOKEN that of `hf auth
    login` will do. Their values are kept nowhere in the home."""
