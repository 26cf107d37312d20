"""What an exported LoRA says of itself: ModelSpec 1.0.1, and the `ss_*` fields that sd-scripts writes. Needs no torch.

A pure function of the run's options and the weights. There is no date, no duration and no machine in it, so that the
same weights are the same file, wherever and whenever they are exported, and however often the run was killed.

Sources: https://github.com/Stability-AI/ModelSpec (fields and their spelling), and kohya-ss/sd-scripts, which readers
such as AUTOMATIC1111's list of LoRAs were made for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal

from pydantic import JsonValue

from dreambooth_resume.models.single_file import ENDING
from dreambooth_resume.workflows.kind_card import hub_tag, kind_of

Layout = Literal["diffusers", "kohya"]

SPEC_VERSION = "1.0.1"
LICENSE = "openrail++"

# Whose code a reader needs for these names, as the specification has it.
_IMPLEMENTATIONS: dict[Layout, str] = {
    "diffusers": "diffusers",
    "kohya": "https://github.com/Stability-AI/generative-models",
}
# sd-scripts' field -> the run's option. What the run lacks, or has as null, is left out.
_TRAINING = {
    "ss_batch_size_per_device": "train_batch_size",
    "ss_caption_dropout_rate": "caption_dropout",
    "ss_gradient_accumulation_steps": "gradient_accumulation_steps",
    "ss_gradient_checkpointing": "gradient_checkpointing",
    "ss_keep_tokens": "keep_tokens",
    "ss_learning_rate": "learning_rate",
    "ss_lr_scheduler": "lr_scheduler",
    "ss_lr_warmup_steps": "lr_warmup_steps",
    "ss_max_grad_norm": "max_grad_norm",
    "ss_max_train_steps": "max_train_steps",
    "ss_min_snr_gamma": "snr_gamma",
    "ss_mixed_precision": "mixed_precision",
    "ss_noise_offset": "noise_offset",
    "ss_optimizer": "optimizer",
    "ss_prior_loss_weight": "prior_loss_weight",
    "ss_seed": "seed",
    "ss_unet_lr": "learning_rate",
}


def export_header(
    family_header: Mapping[str, str],
    options: Mapping[str, JsonValue],
    *,
    layout: Layout,
    title: str,
    step: int,
    prompts: Sequence[str],
) -> dict[str, str]:
    """The header's fields, but for the weights' own digest.

    `family_header` is what the family's kohya conversion says: architecture, rank, alpha. `options` are those that the
    run had at `step`, `prompts` those of its pictures, one for each; the instance prompt is the trigger phrase.
    """
    phrase = str(options.get("instance_prompt") or "")
    side = options.get("resolution")
    spec = {
        "sai_model_spec": SPEC_VERSION,
        "architecture": family_header["modelspec.architecture"],
        "implementation": _IMPLEMENTATIONS[layout],
        "title": title,
        "resolution": f"{side}x{side}" if side else None,
        "license": LICENSE,
        "trigger_phrase": phrase or None,
        "usage_hint": f"Use {phrase}" if phrase else None,
        "description": f"{kind_of(options)} of step {step}, trained with DreamBooth on {shown_base(options)}",
        "tags": f"dreambooth, {hub_tag(options)}",
        "encoder_layer": _encoder_layer(options),
    }
    kohya = {name: value for name, value in family_header.items() if name.startswith("ss_")}
    trained: dict[str, JsonValue] = {name: options.get(option) for name, option in _TRAINING.items()}
    trained |= {
        "ss_clip_skip": _encoder_layer(options),
        "ss_num_train_images": len(prompts) or None,
        "ss_output_name": title,
        "ss_resolution": f"({side}, {side})" if side else None,
        "ss_sd_model_name": shown_base(options),
        "ss_steps": step,
        "ss_tag_frequency": _tag_frequency(prompts),
        "ss_text_encoder_lr": options.get("text_encoder_lr") if options.get("train_text_encoder") else None,
    }
    if not options.get("with_prior_preservation"):
        trained.pop("ss_prior_loss_weight", None)
    header = {f"modelspec.{name}": value for name, value in spec.items()} | kohya | trained
    return {name: str(value) for name, value in sorted(header.items()) if value is not None}


def _encoder_layer(options: Mapping[str, JsonValue]) -> int | None:
    """The layer of the text encoders that is read, counted from their end; None for SDXL's own, the second to last."""
    skipped = options.get("clip_skip")
    return skipped + 2 if isinstance(skipped, int) and skipped else None


def shown_base(options: Mapping[str, JsonValue]) -> str:
    """The base model's Hub id, or the last part of its folder's name: nothing else of the machine that trained."""
    name = str(options.get("pretrained_model_name_or_path") or "")
    return hub_id(name) or PurePosixPath(name).name


def hub_id(model: JsonValue) -> str | None:
    """The model if it is a Hub id; None for a folder or file, which means nothing on another machine."""
    text = str(model or "")
    if text.endswith(ENDING):
        return None
    return text if text.count("/") == 1 and not text.startswith(("/", ".", "~")) and "://" not in text else None


def _tag_frequency(prompts: Sequence[str]) -> str | None:
    """How often each tag stands in a caption: AUTOMATIC1111 and ComfyUI's LoRA tools offer those as trigger words."""
    tags = Counter(tag.strip() for prompt in prompts for tag in prompt.split(",") if tag.strip())
    return json.dumps({"pictures": dict(sorted(tags.items()))}) if tags else None
