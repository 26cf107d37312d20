"""`README.md` of a finished run: what it is, what it was made from, how it is used. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.home import CARD_NAME, WEIGHTS_NAME
from dreambooth_resume.runs.samples import SampleSet, read_samples
from dreambooth_resume.storage.base import Storage

MARK = "<!-- made by dbr; written again when it is missing -->"
LICENSE = "openrail++"


def publish_card(storage: Storage, ref: CheckpointRef, options: Mapping[str, JsonValue], *, name: str) -> bytes:
    """See to it that the finished run's home has its card; returns what lies there. A user's own stays as it is."""
    made = model_card(name, ref, options, final_samples(storage, ref.step)).encode()
    try:
        stored = storage.read(CARD_NAME)
    except KeyNotFound:
        stored = None
    if stored is not None and (stored == made or MARK.encode() not in stored):
        return stored
    storage.write(CARD_NAME, [made])
    return made


def final_samples(storage: Storage, step: int) -> SampleSet | None:
    """The pictures that were made with the result, or None."""
    return next((made for made in reversed(read_samples(storage, step=step)) if made.is_final), None)


def model_card(name: str, ref: CheckpointRef, options: Mapping[str, JsonValue], samples: SampleSet | None) -> str:
    """The card in Markdown, with the Hub's front matter. Names no folder of the machine that trained."""
    base, vae = options.get("pretrained_model_name_or_path"), options.get("pretrained_vae_model_name_or_path")
    prompt = str(options.get("instance_prompt") or "")
    hub_base = _hub_id(base)
    front = [
        "license: openrail++",
        "library_name: diffusers",
        *([f"base_model: {hub_base}"] if hub_base else []),
        f"instance_prompt: {json.dumps(prompt)}",
        *_widget(samples),
        "tags:",
        *(f"- {tag}" for tag in _tags(options)),
    ]
    weights = ref.file_named(WEIGHTS_NAME)
    text_encoder = "yes" if options.get("train_text_encoder") else "no"
    facts = {
        "base model": _shown_model(base),
        "VAE used for training": _shown_model(vae) if vae else "the base model's",
        "LoRA for the text encoders": text_encoder,
        "rank": options.get("rank"),
        "steps": ref.step,
        "samples a step": _product(options.get("train_batch_size"), options.get("gradient_accumulation_steps")),
        "learning rate": options.get("learning_rate"),
        "resolution": options.get("resolution"),
        "seed": options.get("seed"),
        "SHA-256": f"`{weights.sha256}`",
    }
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items() if value is not None)
    gallery = "\n<Gallery />\n" if samples else ""
    return (
        "\n".join(["---", *front, "---", ""])
        + f"""
{MARK}

# SDXL LoRA DreamBooth - {name}
{gallery}
## Model description

LoRA weights for {_shown_model(base)}, trained with [DreamBooth](https://dreambooth.github.io/).

## Trigger words

Use `{prompt}` to trigger the image generation.

## Use it

```python
import torch
from diffusers import AutoPipelineForText2Image

base = "{hub_base or "PATH-TO-THE-BASE-MODEL"}"
pipeline = AutoPipelineForText2Image.from_pretrained(base, torch_dtype=torch.float16).to("cuda")
pipeline.load_lora_weights("{name}", weight_name="{WEIGHTS_NAME}")
image = pipeline({json.dumps(prompt)}).images[0]
```

## Training

| | |
|---|---|
{rows}

Trained with `dbr`. The license of the base model, {LICENSE}, holds for these weights as well.
"""
    )


def _widget(samples: SampleSet | None) -> list[str]:
    if samples is None:
        return []
    lines = ["widget:"]
    for key in samples.pictures:
        lines += [f"- text: {json.dumps(samples.prompt)}", "  output:", f"    url: {key}"]
    return lines


def _tags(options: Mapping[str, JsonValue]) -> tuple[str, ...]:
    kind = "dora" if options.get("use_dora") else "lora"
    return (
        "text-to-image",
        "diffusers-training",
        "diffusers",
        kind,
        "template:sd-lora",
        "stable-diffusion-xl",
        "stable-diffusion-xl-diffusers",
    )


def _hub_id(model: JsonValue) -> str | None:
    """The model if it is a Hub id; None for a folder, which means nothing on another machine."""
    text = str(model or "")
    return text if text.count("/") == 1 and not text.startswith(("/", ".", "~")) and "://" not in text else None


def _shown_model(model: JsonValue) -> str:
    found = _hub_id(model)
    return f"[{found}](https://huggingface.co/{found})" if found else f"`{Path(str(model or '')).name}`"


def _product(one: JsonValue, two: JsonValue) -> int | None:
    return one * two if isinstance(one, int) and isinstance(two, int) else None
