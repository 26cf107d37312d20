"""Options: prior preservation, which keeps what the model knows of the subject's class."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from dreambooth_resume.config.options.declaration import (
    FINITE,
    NOT_BLANK,
    SECTION_CONFIG,
    TILDE_EXPANDED,
    any_case,
    applied,
    free,
    refused,
)

Precision = Literal["no", "fp32", "fp16", "bf16"]

_CLASS_SET = "a run keeps its class pictures; start a new run for others"


def _no_is_a_word(value: object) -> object:
    # YAML reads `prior_generation_precision: no` as false.
    return "no" if value is False else value


class PriorOptions(BaseModel):
    """Prior preservation: pictures of the subject's class, trained beside the subject's own."""

    model_config = SECTION_CONFIG

    with_prior_preservation: Annotated[bool, refused("start a new run to train with, or without, class pictures")] = (
        False
    )
    """Train a class picture beside each picture, so that the class itself (all dogs) does not turn into the subject.
    Needs class_prompt. A step then computes twice train_batch_size samples."""

    # Free, as instance_data_dir is: the run pins the pictures' contents, and has them in its home.
    class_data_dir: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free()] = None
    """Folder with pictures of the class; the first num_class_images by name are used, and copied into the run's home.
    It is only read, and may be missing: pictures that it lacks are made by the base model and kept in the home."""

    class_prompt: Annotated[str | None, NOT_BLANK, refused(_CLASS_SET)] = None
    """Prompt of the class pictures, without the rare word, for example "a photo of a dog"."""

    num_class_images: Annotated[int, Field(ge=1), refused(_CLASS_SET)] = 100
    """Number of class pictures. Those that class_data_dir lacks are made before training begins."""

    prior_loss_weight: Annotated[
        float, FINITE, Field(ge=0), applied("class pictures count by the new weight from the next step on")
    ] = 1.0
    """How much the loss of the class pictures counts beside that of the subject's."""

    prior_generation_precision: Annotated[
        Precision | None,
        BeforeValidator(_no_is_a_word),
        any_case("no", "fp32", "fp16", "bf16"),
        refused("all class pictures of a run are made in one precision; start a new run"),
    ] = None
    """Precision in which class pictures are made. null or no: fp16 on a GPU (not run in the tests), fp32 on a CPU."""

    sample_batch_size: Annotated[
        int, Field(ge=1), applied("class pictures that are still to be made are computed in other portions")
    ] = 4
    """Class pictures that are made at once. Less needs less memory. A notice is looked at between denoising steps."""

    @property
    def generation_precision(self) -> Literal["fp32", "fp16", "bf16"] | None:
        """`prior_generation_precision`; None leaves it to the device."""
        chosen = self.prior_generation_precision
        return None if chosen == "no" else chosen
