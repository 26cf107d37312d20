"""Options: pictures that are made with the LoRA while it trains, and at the end."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from dreambooth_resume.config.options.declaration import NOT_BLANK, SECTION_CONFIG, TILDE_EXPANDED, free


class ValidationOptions(BaseModel):
    """Pictures that are made with the LoRA while it trains, and with the result."""

    model_config = SECTION_CONFIG

    validation_prompt: Annotated[str | None, NOT_BLANK, free()] = None
    """Prompt of pictures that show how far the LoRA is. They go to samples/ in the home, with the same noise each time,
    and change nothing about the training; what goes wrong with them is said, and training goes on."""

    validation_prompts_file: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free()] = None
    """File of more prompts, a picture each, behind those of validation_prompt. Lines such as `a photo of sks dog --n
    blurry --w 1024 --h 768 --d 7 --l 5 --s 30` (negative prompt, width, height, seed, guidance, steps: as in kohya's
    files), or JSON, JSONL or YAML with those as names. Kept in the home for other machines."""

    num_validation_images: Annotated[int, Field(ge=0), free()] = 4
    """Pictures each time. 0: none."""

    validation_epochs: Annotated[int, Field(ge=1), free()] = 50
    """Make them at the end of the first epoch, and every so many epochs after it."""

    validation_steps: Annotated[int | None, Field(ge=1), free()] = None
    """Make them every so many steps, in place of validation_epochs."""

    final_validation_prompt: Annotated[str | None, NOT_BLANK, free()] = None
    """Prompt of the pictures that are made with the result, where there is no validation_prompt."""

    validation_data_dir: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free()] = None
    """Folder with pictures of the subject that are not trained on. Their loss (val_loss in the metrics and trackers)
    rises when the LoRA only learns its own pictures by heart. Measured when validation pictures are due and at the
    last step, at four fixed noise levels, with instance_prompt, cut from the middle to the shapes of the pictures that
    train; it changes nothing about the training. The pictures are copied into the home at the first start, and later
    edits of the folder don't count."""

    skip_final_inference: Annotated[bool, free()] = False
    """Make no pictures with the result."""
