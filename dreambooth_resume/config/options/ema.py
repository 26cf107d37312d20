"""Options: an average of the weights over the steps."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from dreambooth_resume.config.options.declaration import FINITE, SECTION_CONFIG, applied, refused


class EmaOptions(BaseModel):
    """An average of the weights over the steps (EMA) as the result."""

    model_config = SECTION_CONFIG

    use_ema: Annotated[bool, refused("the average goes over all steps of a run; start a new run")] = False
    """Keep an average of the LoRA's weights over the steps, which is steadier than the newest weights. Results, every
    checkpoint's LoRA and validation pictures are made with it. The weights that train are kept beside it in each
    checkpoint (trainer_state.safetensors). Not with optimizer AdamWScheduleFree, which averages itself."""

    ema_decay: Annotated[
        float, FINITE, Field(ge=0, lt=1), applied("the average follows at the new decay from the next step on")
    ] = 0.9999
    """How much of the average stays at each step: 0.999 goes over about a thousand steps. It begins low and rises to
    this as (1 + step) / (10 + step), so that a short run's average is mostly of its last fifth."""
