"""Options: the adapter."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from dreambooth_resume.config.options.declaration import FINITE, SECTION_CONFIG, applied, free, never, refused


class LoraOptions(BaseModel):
    """The LoRA itself."""

    model_config = SECTION_CONFIG

    rank: Annotated[int, Field(ge=1), never("weights of another rank do not fit; start a new run", common=True)] = 4
    """Rank of the LoRA: its size and capacity. 4 to 32 is usual."""

    lora_alpha: Annotated[
        float | None, FINITE, Field(gt=0), refused("it scales all that was learned; start a new run")
    ] = None
    """Strength of the LoRA is lora_alpha / rank. null: lora_alpha = rank, as in Diffusers' script."""

    lora_dropout: Annotated[
        float, FINITE, Field(ge=0, lt=1), applied("the LoRA's inputs are dropped at the new rate from the next step on")
    ] = 0.0
    """Part of the LoRA's inputs that is dropped in training, against over-fitting."""

    use_dora: Annotated[bool, never("a DoRA has weights that a LoRA lacks; start a new run")] = False
    """Train the length of each row of the layers' weights apart from its direction (DoRA): often better at a low rank,
    slower."""

    train_text_encoder: Annotated[
        bool,
        never("the text encoders' LoRA is there from the first step or not at all; start a new run"),
    ] = False
    """Train a LoRA on both text encoders too: the prompts are encoded at every step, which needs more memory and time.
    """

    output_kohya_format: Annotated[bool, free()] = False
    """Leave the result in kohya's format too, for AUTOMATIC1111, ComfyUI and InvokeAI:
    pytorch_lora_weights_kohya.safetensors. Given on a finished run, it is made then."""

    @property
    def alpha(self) -> float:
        """`lora_alpha`, or what it stands for when it was left out."""
        return float(self.rank) if self.lora_alpha is None else self.lora_alpha
