"""`dbr estimate`: gathers what an estimate is made of. Nothing is downloaded, loaded or written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from dreambooth_resume.config.load import GivenOptions, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.plan import VARIANTS
from dreambooth_resume.errors import BadInput
from dreambooth_resume.insight.devices import Device, DeviceTrouble, devices_here
from dreambooth_resume.insight.estimate import (
    Chances,
    Estimate,
    Machine,
    Workload,
    estimate,
    measured_speed,
    speed_of,
)
from dreambooth_resume.insight.gpus import GPUS, Gpu, gpu_of
from dreambooth_resume.insight.happened import Happened, what_happened
from dreambooth_resume.insight.memory import setting_of
from dreambooth_resume.insight.prices import GpuPrice, price_of
from dreambooth_resume.models.base import Family
from dreambooth_resume.models.families import FAMILIES, family_named
from dreambooth_resume.models.hub import HubUnreachable, OfflineHub
from dreambooth_resume.models.source import ModelSource, resolve_source
from dreambooth_resume.runs.log import read_log
from dreambooth_resume.runs.record import RunRecord, read_record
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.workflows.adapter import adapter_of
from dreambooth_resume.workflows.first_start import decided
from dreambooth_resume.workflows.room import save_interval
from dreambooth_resume.workflows.sources import scan_source

# As in training/preview.py, which needs torch: for a picture while training, and for one of the result's; two passes
# for guidance.
_PASSES, _FINAL_PASSES = 2 * 50, 2 * 25
_HERE = "this machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user wants to know it for; None: not said."""

    gpus: tuple[Gpu, ...] = ()
    chances: Chances = field(default_factory=Chances)
    efficiency: float | None = None
    step_seconds: float | None = None
    """Measured by the user, or a moment ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """An estimate for a run's own options, and what has happened of it. `device` is where it began."""

    home: str
    device: str
    estimate: Estimate
    happened: Happened


def estimate_run(given: GivenOptions, asked: Asked) -> Estimate:
    """What a new run with these options will take. Raises BadInput for options or pictures that no run can have."""
    options = decided(resolve(given, recorded=None))
    workload = workload_of(options)
    return estimate(workload, _machines(workload, options, asked), asked.chances)


def compare_with_home(storage: Storage, asked: Asked) -> Compared:
    """The same for a run that has begun. Raises BadInput where nothing was trained yet."""
    record, happened = read_record(storage), what_happened(storage)
    if record is None or happened is None:
        raise BadInput(
            "nothing was trained here yet", where=storage.describe(), fix="dbr estimate --config run.yaml, before it is"
        )
    options = _recorded_options(record, storage)
    workload = workload_of(options, steps=happened.max_train_steps, effective_batch=record.effective_batch)
    device = record.numerics.get("device_name", "unknown")
    gpu = gpu_of(device, 0) if record.numerics.get("device") == "cuda" else None
    machines = _machines(workload, options, Asked(gpus=asked.gpus or ((gpu,) if gpu else ())))
    if not asked.gpus and gpu is None and happened.step_seconds is not None:
        machines = (_measured(workload, options, happened.step_seconds, source="the run's own median"),)
    return Compared(
        home=storage.describe(),
        device=device,
        estimate=estimate(workload, machines, asked.chances),
        happened=happened,
    )


def workload_of(options: TrainOptions, *, steps: int | None = None, effective_batch: int | None = None) -> Workload:
    """What is to be computed. `steps` and the batch are those of a run that has begun, whose pictures may be gone."""
    family, source = find_model(options)
    side, training = options.data.resolution, options.training
    demands = family.demands(
        source,
        adapter_of(options, family, source),
        height=side,
        width=side,
        text_encoders=options.lora.train_text_encoder,
    )
    processes = options.machine.num_processes
    batch = effective_batch or training.train_batch_size * training.gradient_accumulation_steps * processes
    known = steps or training.max_train_steps
    pictures = _pictures(options, needed=known is None)
    in_a_pass = sum(picture.times for picture in pictures.pictures) * options.data.repeats if pictures else batch
    length = known or math.ceil(training.num_train_epochs * in_a_pass / batch)
    made, passes = _pictures_made(options, steps=length, epoch_steps=in_a_pass / batch)
    variants = VARIANTS * len(pictures.pictures) if pictures and options.data.cache_latents else 0
    interval_steps, interval_seconds = save_interval(options)
    return Workload(
        model=options.model.pretrained_model_name_or_path,
        setting=setting_of(options, demands),
        steps=length,
        effective_batch=batch,
        latents=min(variants, length * batch),
        denoising_steps=passes,
        pictures=made,
        interval_steps=interval_steps,
        interval_seconds=interval_seconds,
        processes=processes,
    )


def find_model(options: TrainOptions) -> tuple[Family, ModelSource | None]:
    """The model's files, if they are on this machine. Raises BadInput for a folder or file that is no model."""
    model = options.model
    if model.pretrained_model_name_or_path.startswith("s3://"):
        return family_named(next(iter(FAMILIES))), None  # whatever of it is here, the bucket would be asked
    try:
        source = resolve_source(
            model.pretrained_model_name_or_path,
            vae_name=model.pretrained_vae_model_name_or_path,
            revision=model.revision,
            variant=model.variant,
            base_config=model.base_config,
            hub=OfflineHub(cache_dir=model.cache_dir),
        )
    except HubUnreachable:
        return family_named(next(iter(FAMILIES))), None
    return family_named(source.family), source


def _pictures(options: TrainOptions, *, needed: bool) -> PictureSet | None:
    try:
        return scan_source(options, skip_bad=True)
    except BadInput:
        if needed:
            raise
        return None  # they lie on another machine; the length is known without them


def _pictures_made(options: TrainOptions, *, steps: int, epoch_steps: float) -> tuple[int, int]:
    """How many pictures are made, and in how many passes of the denoiser. Those of a prompts file aren't counted."""
    chosen, made, passes = options.validation, 0, 0
    if chosen.validation_prompt is not None:
        every = chosen.validation_steps or max(1, round(chosen.validation_epochs * epoch_steps))
        while_training = (steps - 1) // every * chosen.num_validation_images
        made, passes = while_training, while_training * _PASSES
    if not chosen.skip_final_inference and (chosen.validation_prompt or chosen.final_validation_prompt):
        made += chosen.num_validation_images
        passes += chosen.num_validation_images * _FINAL_PASSES
    if options.prior.with_prior_preservation and options.prior.class_data_dir is None:
        made += options.prior.num_class_images
        passes += options.prior.num_class_images * _PASSES
    return made, passes


def _machines(workload: Workload, options: TrainOptions, asked: Asked) -> tuple[Machine, ...]:
    """Those that were named; else this machine's GPU, if its memory is known, and, to choose from, all of the table."""
    if asked.step_seconds is not None and not asked.gpus:
        return (_measured(workload, options, asked.step_seconds, source="measured"),)
    if asked.gpus:
        return tuple(_listed(workload, options, gpu, asked) for gpu in asked.gpus)
    here = tuple(_here(workload, options, device, asked) for device in _devices()[:1] if device.memory_bytes)
    return (*here, *(_listed(workload, options, gpu, asked) for gpu in GPUS.values()))


def _devices() -> Sequence[Device]:
    try:
        return devices_here()
    except DeviceTrouble:
        return ()  # `dbr doctor` says what is wrong with it


def _here(workload: Workload, options: TrainOptions, device: Device, asked: Asked) -> Machine:
    assert device.memory_bytes is not None
    gpu = gpu_of(device.name, device.memory_bytes) or GPUS["a10g"]
    listed = _listed(workload, options, gpu, asked)
    return Machine(
        name="here",
        title=f"{device.name}, this machine's",
        speed=listed.speed,
        memory_bytes=device.memory_bytes,
        has_bf16=gpu.has_bf16,
        price=listed.price,
    )


def _listed(workload: Workload, options: TrainOptions, gpu: Gpu, asked: Asked) -> Machine:
    speed = (
        speed_of(gpu, workload, efficiency=asked.efficiency)
        if asked.step_seconds is None
        else measured_speed(asked.step_seconds, workload, source="as given")
    )
    return Machine(
        name=gpu.name,
        title=gpu.title,
        speed=speed,
        memory_bytes=gpu.memory_bytes,
        has_bf16=gpu.has_bf16,
        price=_price(options, gpu.name),
    )


def _measured(workload: Workload, options: TrainOptions, step_seconds: float, *, source: str) -> Machine:
    return Machine(
        name="here",
        title=_HERE,
        speed=measured_speed(step_seconds, workload, source=f"{step_seconds:.3g} s a step, {source}"),
        price=_price(options, None),
    )


def _price(options: TrainOptions, gpu: str | None) -> GpuPrice | None:
    budget = options.budget
    return price_of(
        gpu,
        per_hour=budget.price_per_hour,
        on_demand_per_hour=budget.on_demand_price_per_hour,
        gpus=options.machine.num_processes,
    )


def _recorded_options(record: RunRecord, storage: Storage) -> TrainOptions:
    last = read_log(storage).last
    recorded = {**record.options, **(last.state.changed_options if last else {})}
    return resolve(GivenOptions(values={}, sources={}, config_file=None), recorded=recorded)
