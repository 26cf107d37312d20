"""Options: the base model."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from dreambooth_resume.config.options.declaration import NOT_BLANK, SECTION_CONFIG, TILDE_EXPANDED, free, refused


class ModelOptions(BaseModel):
    """The base model that the LoRA is trained on."""

    # Nearly all free: what a run pins is the bytes of the model, not where this machine finds them.
    model_config = SECTION_CONFIG

    pretrained_model_name_or_path: Annotated[str, NOT_BLANK, TILDE_EXPANDED, free(common=True)]
    """Base model: a folder in Diffusers' layout, a single .safetensors file of any SDXL model, or a Hub id such as
    stabilityai/stable-diffusion-xl-base-1.0. Folder and file may lie in a bucket: s3://bucket/models/dog. A resumed run
    compares the model's bytes, so they may lie elsewhere on another machine."""

    base_config: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free()] = None
    """Where a base model in a single file has its configurations and tokenizers from: a folder in Diffusers' layout or
    a Hub id, whose weights are not fetched. The folder may lie in a bucket: s3://bucket/models/dog. A model that
    predicts v needs that of one that does. The run keeps the commit that it began with. null:
    stabilityai/stable-diffusion-xl-base-1.0."""

    pretrained_vae_model_name_or_path: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free()] = None
    """Another VAE than the base model's: a folder (s3://, too) or a Hub id. Compared by its bytes, too."""

    revision: Annotated[str | None, NOT_BLANK, free()] = None
    """Branch, tag or commit of the base model on the Hub, or of base_config. The run keeps the commit that it began
    with."""

    variant: Annotated[str | None, NOT_BLANK, free()] = None
    """Variant of the model's weight files, for example fp16. Compared by their bytes, too."""

    cache_dir: Annotated[str | None, NOT_BLANK, TILDE_EXPANDED, free(recorded=False)] = None
    """Where models and data sets from the Hub, and models from buckets, are kept on this machine. null:
    huggingface_hub's own folder, and for buckets the user's cache folder."""

    clip_skip: Annotated[
        int | None, Field(ge=0), refused("every prompt would be read otherwise; start a new run for that")
    ] = None
    """Layers of the text encoders that are left out before the one that SDXL reads, as in Diffusers' advanced script.
    Pictures are then made with the same clip_skip in the pipeline. null, or 0: none."""
