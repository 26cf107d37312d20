"""`README.md` of a finished run: what it is, what it was made from, how it is used. Needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import JsonValue

from dreambooth_resume.data.inputs import INPUTS_LIST, read_list
from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.models.new_words import NewWords
from dreambooth_resume.models.single_file import ENDING
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.history import HistoryTotals, read_history, totals_of
from dreambooth_resume.runs.home import CARD_NAME, KOHYA_NAME, WEIGHTS_NAME
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.record import read_record
from dreambooth_resume.runs.samples import SampleSet, read_samples
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.export_header import LICENSE, hub_id
from dreambooth_resume.workflows.kind_card import full_kind_of, hub_tag, kind_of, loading_of_adapter
from dreambooth_resume.workflows.new_tokens_card import (
    how_words_are_written,
    loading_of_embeddings,
    new_words_of,
)

MARK = "<!-- made by dbr; written again when it is missing -->"
_PICTURES, _PICTURES_A_ROW = 8, 4


def publish_card(storage: Storage, log: Log, ref: CheckpointRef, *, name: str) -> bytes:
    """See to it that the finished run's home has its card; returns what lies there. A user's own stays as it is."""
    made = model_card(name, ref, training_facts(storage, log, ref), final_samples(storage, ref.step)).encode()
    try:
        stored = storage.read(CARD_NAME)
    except KeyNotFound:
        stored = None
    if stored is not None and (stored == made or MARK.encode() not in stored):
        return stored
    storage.write(CARD_NAME, [made])
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """What a card tells of how the LoRA came about: no name of a machine, a user or a folder is among it."""

    options: Mapping[str, JsonValue]
    """As they were at the checkpoint."""
    numerics: Mapping[str, str]
    samples_a_step: int
    pictures: int | None
    """How many it was trained on; None where the home keeps no list of them."""
    totals: HistoryTotals


def training_facts(storage: Storage, log: Log, ref: CheckpointRef) -> TrainingFacts:
    """The facts of a run that made the checkpoint `ref`, from its home."""
    record = read_record(storage)
    assert record is not None, "a run with checkpoints has a record"
    listed = read_list(storage, INPUTS_LIST)
    return TrainingFacts(
        options={**record.options, **log.entries[ref.number - 1].state.changed_options},
        numerics=record.numerics,
        samples_a_step=record.effective_batch,
        pictures=len(listed.pictures) if listed else None,
        totals=totals_of(read_history(storage), log.entries[-1].state.totals),
    )


def final_samples(storage: Storage, step: int) -> SampleSet | None:
    """The pictures that were made with the result, or None."""
    return next((made for made in reversed(read_samples(storage, step=step)) if made.is_final), None)


_SHOWN_WHERE_GIVEN = ("lora_layers", "lora_unet_blocks", "use_blora", "conv_dim", "rank_pattern", "clip_skip")


def model_card(name: str, ref: CheckpointRef, facts: TrainingFacts, samples: SampleSet | None) -> str:
    """The card in Markdown, with the Hub's front matter."""
    options = facts.options
    base = options.get("pretrained_model_name_or_path")
    words = new_words_of(options)
    prompt = words.in_place(str(options.get("instance_prompt") or ""))
    hub_base = hub_id(base)
    front = [
        f"license: {LICENSE}",
        "library_name: diffusers",
        *([f"base_model: {hub_base}", "base_model_relation: adapter"] if hub_base else []),
        f"instance_prompt: {json.dumps(prompt)}",
        *_widget(samples, words),
        "tags:",
        *(f"- {tag}" for tag in _tags(options)),
    ]
    gallery = "\n<Gallery />\n" if samples else ""
    return (
        "\n".join(["---", *front, "---", ""])
        + f"""
{MARK}

# SDXL {kind_of(options)} DreamBooth - {name}
{gallery}
## Model description

{full_kind_of(options)} weights for {_shown_model(base)}, trained with [DreamBooth](https://dreambooth.github.io/).

## Trigger words

Use `{prompt}` to trigger the image generation.
{how_words_are_written(words)}{_pictures(samples)}
## Use it

{_with_diffusers(name, hub_base, prompt, options)}

{_elsewhere(name, options, prompt)}

## Training

{_table(_training(ref, facts))}

{_how_it_went(facts.totals)}

Trained with `dbr`. The license of the base model, {LICENSE}, holds for these weights as well.
"""
    )


def _with_diffusers(name: str, hub_base: str | None, prompt: str, options: Mapping[str, JsonValue]) -> str:
    loading = loading_of_adapter(options, name) + loading_of_embeddings(new_words_of(options), name)
    clip_skip = f", clip_skip={skipped}" if (skipped := options.get("clip_skip")) else ""
    base = options.get("pretrained_model_name_or_path")
    # Only the class of one kind of model reads a single file.
    pipeline, load = "AutoPipelineForText2Image", "from_pretrained"
    if is_single := str(base).endswith(ENDING):
        pipeline, load = "StableDiffusionXLPipeline", "from_single_file"
    path = f"PATH-TO/{Path(str(base)).name}" if is_single else "PATH-TO-THE-BASE-MODEL"
    return f"""\
With [Diffusers](https://github.com/huggingface/diffusers):

```python
import torch
from diffusers import {pipeline}

base = "{hub_base or path}"
pipeline = {pipeline}.{load}(base, torch_dtype=torch.float16).to("cuda")
{loading}image = pipeline({json.dumps(prompt)}{clip_skip}).images[0]
```"""


def _elsewhere(name: str, options: Mapping[str, JsonValue], prompt: str) -> str:
    word = PurePosixPath(name).name
    file = f"`{KOHYA_NAME}`"
    if not options.get("output_kohya_format"):
        file = f"`{word}.safetensors`, which `dbr export HOME --format kohya --to {word}.safetensors` makes of the run,"
        word_of_file = word
    else:
        word_of_file = KOHYA_NAME.removesuffix(".safetensors")
    return f"""\
With ComfyUI: put {file} into `models/loras` and add a *Load LoRA* node with both strengths at 1.

With AUTOMATIC1111, Forge or SD.Next: put {file} into `models/Lora`, and write `{prompt} <lora:{word_of_file}:1>`."""


def _training(ref: CheckpointRef, facts: TrainingFacts) -> dict[str, JsonValue]:
    """Row by row; None is left out."""
    options = facts.options
    vae = options.get("pretrained_vae_model_name_or_path")
    weights = ref.file_named(WEIGHTS_NAME)
    rows: dict[str, JsonValue] = {
        "base model": _shown_model(options.get("pretrained_model_name_or_path")),
        "VAE used for training": _shown_model(vae) if vae else "the base model's",
        "pictures": facts.pictures,
        "prior preservation": _prior(options),
        "LoRA for the text encoders": "yes" if options.get("train_text_encoder") else "no",
        "new tokens (pivotal tuning)": f"`{''.join(new_words_of(options).tokens)}`"
        if options.get("train_text_encoder_ti")
        else None,
        "rank": options.get("rank"),
        "alpha": _number(options.get("lora_alpha") or options.get("rank")),
        **{name: options.get(name) or None for name in _SHOWN_WHERE_GIVEN},
        "steps": ref.step,
        "samples a step": facts.samples_a_step,
        "learning rate": options.get("learning_rate"),
        "learning rate of the text encoders": options.get("text_encoder_lr")
        if options.get("train_text_encoder") or options.get("train_text_encoder_ti")
        else None,
        "schedule": options.get("lr_scheduler"),
        "optimizer": options.get("optimizer"),
        "weights": f"an average over the steps (EMA {options.get('ema_decay')})" if options.get("use_ema") else None,
        "precision": options.get("mixed_precision"),
        "resolution": options.get("resolution"),
        "seed": options.get("seed"),
        "hardware": _hardware(facts.numerics),
        "libraries": ", ".join(
            f"{name} {facts.numerics[name]}" for name in ("torch", "diffusers", "peft") if name in facts.numerics
        )
        or None,
        "SHA-256": f"`{weights.sha256}`",
    }
    return {name: value for name, value in rows.items() if value is not None}


def _how_it_went(totals: HistoryTotals) -> str:
    hours = totals.training_seconds / 3600
    spent = f"{hours:.1f} hours" if hours >= 1 else f"{totals.training_seconds / 60:.1f} minutes"
    if totals.attempts == 1:
        return f"It was trained in one go, in {spent}."
    times = {0: "never", 1: "once"}.get(totals.interruptions, f"{totals.interruptions} times")
    machines = "one machine" if totals.machines == 1 else f"{totals.machines} machines"
    return (
        f"It was trained in {totals.attempts} attempts on {machines}, in {spent}, and interrupted {times}; "
        f"{totals.redone_steps} of {totals.steps_trained} steps were trained again after an interruption, on the same "
        "samples."
    )


def _prior(options: Mapping[str, JsonValue]) -> str | None:
    if not options.get("with_prior_preservation"):
        return None
    return f"`{options.get('class_prompt')}`, weight {options.get('prior_loss_weight')}"


def _hardware(numerics: Mapping[str, str]) -> str | None:
    """Of the run's first machine."""
    device, device_name = numerics.get("device"), numerics.get("device_name")
    return f"{device_name} ({device})" if device and device_name else device


def _number(value: JsonValue) -> JsonValue:
    return f"{value:g}" if isinstance(value, float) else value


def _table(rows: Mapping[str, JsonValue]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _pictures(samples: SampleSet | None) -> str:
    """The result's pictures for readers that know no Gallery: a file viewer, GitHub, an editor."""
    if samples is None:
        return ""
    shown = [(key, samples.prompts[number]) for number, key in enumerate(samples.pictures[:_PICTURES])]
    rows = [shown[first : first + _PICTURES_A_ROW] for first in range(0, len(shown), _PICTURES_A_ROW)]
    width = min(len(shown), _PICTURES_A_ROW)
    lines = ["", "## Pictures", "", "| " * width + "|", "|---" * width + "|"]
    for row in rows:
        cells = [f"![{_plain(prompt)}]({key})<br>{_plain(prompt)}" for key, prompt in row]
        lines.append("| " + " | ".join(cells + [""] * (width - len(row))) + " |")
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """A prompt where Markdown's own signs would end the cell or the picture."""
    return re.sub(r"[\[\]|<>`\\\n]", " ", text)


def _widget(samples: SampleSet | None, words: NewWords) -> list[str]:
    if samples is None:
        return []
    lines = ["widget:"]
    for key, prompt in zip(samples.pictures, samples.prompts, strict=True):
        lines += [f"- text: {json.dumps(words.in_place(prompt))}", "  output:", f"    url: {key}"]
    return lines


def _tags(options: Mapping[str, JsonValue]) -> tuple[str, ...]:
    return (
        "text-to-image",
        "diffusers-training",
        "diffusers",
        hub_tag(options),
        "template:sd-lora",
        "stable-diffusion-xl",
        "stable-diffusion-xl-diffusers",
    )


def _shown_model(model: JsonValue) -> str:
    found = hub_id(model)
    return f"[{found}](https://huggingface.co/{found})" if found else f"`{Path(str(model or '')).name}`"
