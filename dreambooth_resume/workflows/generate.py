"""Pictures made with a run's checkpoints, beside the base model's: the same noise, so that only the LoRA differs.

Reads the home and the base model, and writes to a folder of this machine; nothing about it reaches a training. A
process of its own does well to call `generate`: the model stays in memory until it ends.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from dreambooth_resume.config.load import GivenOptions, resolve, with_values
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.errors import BadInput, RefusedToGoOn
from dreambooth_resume.models.digests import default_cache_file, digest_files
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.in_a_bucket import ModelsInBuckets
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.single_file import is_file_name
from dreambooth_resume.models.source import MODEL_FLAG, ModelSource, resolve_source
from dreambooth_resume.runs.entries import CheckpointRef
from dreambooth_resume.runs.home import STATE_TENSORS_NAME, WEIGHTS_NAME
from dreambooth_resume.runs.log import Log
from dreambooth_resume.runs.record import RunRecord, read_record
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.s3_address import S3Settings
from dreambooth_resume.workflows.adapter import adapter_of
from dreambooth_resume.workflows.existing import stored_weights
from dreambooth_resume.workflows.export import options_at
from dreambooth_resume.workflows.picture_grid import draw_grid

if TYPE_CHECKING:
    import torch
    from pydantic import JsonValue

    from dreambooth_resume.models.base import Encoders
    from dreambooth_resume.training.model import LoadedModel
    from dreambooth_resume.training.picture_spec import PictureSpec
    from dreambooth_resume.training.preview import Easel, Embeddings

GRID_NAME, LIST_NAME = "grid.png", "pictures.json"
BASE_LABEL = "base model"
_TOLD_EVERY_SECONDS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the pictures show. None: as the run's own pictures have it."""

    prompts: tuple[str, ...]
    negative_prompt: str = ""
    num_images: int = 1
    """Of each prompt."""
    seed: int | None = None
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    height: int | None = None
    width: int | None = None
    beside_base: bool = True
    """The base model's pictures, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseAt:
    """Where the base model is: `model` None where the run has it from. `s3` says how buckets are reached."""

    model: str | None = None
    s3: S3Settings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A picture, and what made it: a checkpoint's folder, or None for the base model alone."""

    file: Path
    checkpoint: str | None
    facts: dict[str, JsonValue]


def generate(
    storage: Storage,
    log: Log,
    refs: Sequence[CheckpointRef],
    wanted: Wanted,
    folder: Path,
    *,
    base: BaseAt | None = None,
    tell: Callable[[str], None],
) -> tuple[Made, ...]:
    """Make the pictures of each checkpoint of `refs` (none: of the base model alone), a list and a grid in `folder`.

    `base` is where the base model is, if it isn't where the run has it from. Raises BadInput for a folder that isn't
    empty or a model that isn't there, RefusedToGoOn for a model that is another one, CheckpointDamaged.
    """
    prepare_folder(folder)
    studio, source, trained = open_studio(storage, log, refs, wanted, base=base, tell=tell)
    rows: list[tuple[str | None, AbstractContextManager[None]]] = []
    if wanted.beside_base or not refs:
        rows.append((None, studio.without_adapter()))
    rows += [(ref.folder, studio.with_adapter(ref, what)) for ref, what in zip(refs, trained, strict=True)]
    made: list[Made] = []
    for checkpoint, in_place in rows:
        with in_place:
            for number, spec in enumerate(studio.specs):
                name = f"{checkpoint or 'base'}-{number}.png"
                told = f"{checkpoint or BASE_LABEL}: picture {number + 1} of {len(studio.specs)}"
                tell(told)
                on_step = _now_and_then(tell, told, steps=spec.num_inference_steps)
                (folder / name).write_bytes(studio.paint(spec, on_step=on_step))
                made.append(Made(file=folder / name, checkpoint=checkpoint, facts=spec.facts()))
    _write_list_and_grid(folder, made, specs=studio.specs, title=f"{storage.describe()} on {Path(source.name).name}")
    return tuple(made)


def open_studio(
    storage: Storage,
    log: Log,
    refs: Sequence[CheckpointRef],
    wanted: Wanted,
    *,
    base: BaseAt | None = None,
    tell: Callable[[str], None],
) -> tuple[Studio, ModelSource, list[Trained]]:
    """The loaded model, where it is from, and what each checkpoint holds, verified. Raises as `generate` does."""
    record = read_record(storage)
    assert record is not None, "a run with a log has a record"
    recorded = options_at(log, refs[-1], record) if refs else record.options
    options = resolve(GivenOptions(values={}, sources={}, config_file=None), recorded=recorded)
    source = _source(options, record, base or BaseAt())
    trained = [_read(storage, ref, options) for ref in refs]
    tell(f"Loading {source.name}.")
    # The LoRA is for the whole base, whatever it was trained on.
    options = with_values(options, {"base_precision": "no"})
    return _load_studio(options, source, _adapter(storage, record, options, source), wanted), source, trained


def prepare_folder(folder: Path) -> None:
    """An empty folder. Raises BadInput for one that holds something, or can't be made."""
    where = f"--out {folder}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BadInput("is not empty", where=where, fix="name a new folder")
    except OSError as error:
        raise BadInput(
            f"can't be used: {error.strerror}", where=where, fix="name a folder that you can write to"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A checkpoint's LoRA file, and the embeddings of its new tokens by the parameters' names, if it has such."""

    weights: bytes
    new_tokens: Mapping[str, torch.Tensor]


class Studio:
    """The loaded model with the adapter's layers on it, and the pictures that are asked for."""

    def __init__(self, loaded: LoadedModel, easel: Easel, specs: tuple[PictureSpec, ...]) -> None:
        self._loaded = loaded
        self._easel = easel
        self.specs = specs

    def without_adapter(self) -> AbstractContextManager[None]:
        from dreambooth_resume.models.base_alone import base_alone

        encoders = self._loaded.text_encoders
        return base_alone([self._loaded.denoiser.module, *(encoders.models.values() if encoders else ())])

    @contextlib.contextmanager
    def with_adapter(self, ref: CheckpointRef, trained: Trained) -> Iterator[None]:
        from dreambooth_resume.checkpoint.tensors import deserialise
        from dreambooth_resume.models.export import parameter_values
        from dreambooth_resume.models.lora import load_parameters

        try:
            adapter = parameter_values(deserialise(trained.weights), prefix=self._loaded.denoiser.export_prefix)
            load_parameters(self._loaded.parameters, {**adapter, **trained.new_tokens})
        except ValueError as error:
            raise RefusedToGoOn(f"{ref.folder} does not fit this base model: {error}") from error
        yield

    def paint(self, spec: PictureSpec, *, on_step: Callable[[int], None]) -> bytes:
        """The picture as PNG. `on_step` hears of each denoising step before it, counted from 0."""
        steps = count()

        def hear() -> bool:
            on_step(next(steps))
            return False

        png = self.paint_unless(spec, should_stop=hear)
        assert png is not None, "nobody stops it"
        return png

    def paint_unless(self, spec: PictureSpec, *, should_stop: Callable[[], bool]) -> bytes | None:
        """The picture as PNG; None if told to stop on the way."""
        from dreambooth_resume.training.preview import as_png

        picture = self._easel.paint(spec, should_stop=should_stop)
        return None if picture is None else as_png(picture)


def _now_and_then(
    tell: Callable[[str], None], label: str, *, steps: int, monotonic: Callable[[], float] = time.monotonic
) -> Callable[[int], None]:
    """For whoever waits: how many steps are done, every few seconds, so that quick pictures are passed in silence."""
    told_at = monotonic()

    def on_step(done: int) -> None:
        nonlocal told_at
        if monotonic() - told_at >= _TOLD_EVERY_SECONDS:
            told_at = monotonic()
            tell(f"{label}, {done} of {steps} steps")

    return on_step


def _source(options: TrainOptions, record: RunRecord, base: BaseAt) -> ModelSource:
    """The base model on this machine. Raises BadInput if it isn't there, RefusedToGoOn if it isn't the run's."""
    chosen, pins, model = options.model, record.pins, base.model
    source = resolve_source(
        model or chosen.pretrained_model_name_or_path,
        vae_name=chosen.pretrained_vae_model_name_or_path,
        # Of a single file, wherever it lies now, the commit is that of its configurations.
        revision=pins.base_commit or chosen.revision if model is None or is_file_name(model) else None,
        vae_revision=pins.vae_commit,
        variant=chosen.variant,
        base_config=chosen.base_config if model is None or is_file_name(model) else None,
        hub=HuggingFaceHub(cache_dir=chosen.cache_dir),
        buckets=ModelsInBuckets(base.s3, cache_dir=chosen.cache_dir),
    )
    if pins.base_model and dict(digest_files(source.files, cache_file=default_cache_file()).files) != pins.base_model:
        raise RefusedToGoOn(
            f"{source.name} is not the base model that the run was trained on: its files are others. Name the right "
            f"one: {MODEL_FLAG} FOLDER-FILE-OR-HUB-ID"
        )
    return source


def _adapter(storage: Storage, record: RunRecord, options: TrainOptions, source: ModelSource) -> LoraSpec:
    family, pinned = family_named(source.family), record.pins.network_weights
    existing = None
    if pinned is not None:
        existing = family.read_adapter(source, stored_weights(storage, pinned), where=storage.describe())
    return adapter_of(options, family, source, existing=existing)


def _read(storage: Storage, ref: CheckpointRef, options: TrainOptions) -> Trained:
    from dreambooth_resume.checkpoint.reader import read_checked
    from dreambooth_resume.checkpoint.tensors import deserialise
    from dreambooth_resume.models.new_tokens import ROWS_NAME
    from dreambooth_resume.training.state import result_tokens

    rows: dict[str, torch.Tensor] = {}
    if options.tokens.train_text_encoder_ti:
        rows = result_tokens(deserialise(read_checked(storage, ref.file_named(STATE_TENSORS_NAME))))
    return Trained(
        weights=read_checked(storage, ref.file_named(WEIGHTS_NAME)),
        new_tokens={f"{encoder}.{ROWS_NAME}": one for encoder, one in rows.items()},
    )


def _load_studio(options: TrainOptions, source: ModelSource, lora: LoraSpec, wanted: Wanted) -> Studio:
    """Load what paints, as the training has it, prompts encoded ahead where the text encoders are frozen."""
    from dreambooth_resume.training.build import make_accelerator
    from dreambooth_resume.training.model import load_model
    from dreambooth_resume.training.objective import objective_of
    from dreambooth_resume.training.precision import autocast, make_scaler
    from dreambooth_resume.training.preview import Easel

    family = family_named(source.family)
    facts = family.check(source)
    accelerator = make_accelerator(options)
    device = accelerator.device
    specs = _specs(options, wanted, multiple=facts.pixels_per_latent)
    encoders = family.encoders(source, device=device)
    embed = (
        None
        if options.text_part is not None
        else _frozen_embed(encoders, specs, device, clip_skip=options.model.clip_skip)
    )
    seed = options.training.seed or 0
    loaded = load_model(options, lora=lora, family=family, source=source, seed=seed, device=device)
    side = facts.picture_side
    scaler = make_scaler(options.training.precision, device)
    easel = Easel(
        denoiser=loaded.denoiser,
        sampler=family.sampler(source, device=device),
        encoders=encoders,
        embed=embed or loaded.embed,
        adapter=lambda: loaded.parameters,
        result_in_place=contextlib.nullcontext,
        autocast=lambda: autocast(accelerator, scaler),
        noise_shape=(facts.latent_channels, side // facts.pixels_per_latent, side // facts.pixels_per_latent),
        height=side,
        width=side,
        edm_style=objective_of(options.loss, is_edm=facts.is_edm).edm_style,
    )
    return Studio(loaded, easel, specs)


def _specs(options: TrainOptions, wanted: Wanted, *, multiple: int) -> tuple[PictureSpec, ...]:
    from dreambooth_resume.training.picture_spec import PictureSpec

    side = options.data.resolution
    height, width = wanted.height or side, wanted.width or side
    for name, pixels in (("--height", height), ("--width", width)):
        if pixels % multiple or pixels < multiple:
            raise BadInput(f"{pixels} is not a multiple of {multiple}", where=name, fix=f"{name} {side}")
    return tuple(
        PictureSpec(
            prompt=prompt,
            negative_prompt=wanted.negative_prompt,
            height=height,
            width=width,
            num_inference_steps=wanted.num_inference_steps,
            guidance_scale=wanted.guidance_scale,
            seed=(options.training.seed or 0) if wanted.seed is None else wanted.seed,
            number=number,
        )
        for prompt in wanted.prompts
        for number in range(wanted.num_images)
    )


def _frozen_embed(
    encoders: Encoders, specs: Sequence[PictureSpec], device: torch.device, *, clip_skip: int | None
) -> Callable[[str], Embeddings]:
    """Every prompt's embeddings, computed before the denoiser takes the memory."""
    import torch

    prompts = dict.fromkeys(prompt for spec in specs for prompt in (spec.prompt, spec.negative_prompt))
    known: dict[str, Embeddings] = {}
    for prompt in prompts:
        encoded = encoders.encode_prompt(prompt, clip_skip=clip_skip)
        embeds, pooled = (torch.from_numpy(one).to(device) for one in encoded)
        known[prompt] = (embeds, pooled)
    encoders.free()
    return known.__getitem__


def _write_list_and_grid(folder: Path, made: Sequence[Made], *, specs: Sequence[PictureSpec], title: str) -> None:
    """The list of what was made, and all of it side by side: a row for each checkpoint."""
    entries = [{"file": one.file.name, "checkpoint": one.checkpoint, **one.facts} for one in made]
    (folder / LIST_NAME).write_text(json.dumps({"pictures": entries}, indent=1, ensure_ascii=False), encoding="utf-8")
    labels = list(dict.fromkeys(one.checkpoint or BASE_LABEL for one in made))
    rows = [[one.file.read_bytes() for one in made if (one.checkpoint or BASE_LABEL) == label] for label in labels]
    columns = [f"{spec.prompt} (seed {spec.seed}, {spec.number})" for spec in specs]
    (folder / GRID_NAME).write_bytes(draw_grid(rows, row_labels=labels, column_labels=columns, title=title))
