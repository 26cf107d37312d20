"""Wires one attempt together. The only place, beside `workflows/`, where the parts meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from dreambooth_resume.config.options.tokens import pivot_step
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.shots import Shot
from dreambooth_resume.data.cache import Cache
from dreambooth_resume.data.class_images import ClassPictures
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.held_out import HeldOut
from dreambooth_resume.data.loader import Loader
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.data.prompts import prompt_draws_of
from dreambooth_resume.data.samples import LatentSource, SampleSource, prompt_entry
from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.base import Encoders, ExistingLora, Family, ModelFacts
from dreambooth_resume.models.compiled import refuse_without_a_compiler
from dreambooth_resume.models.digests import SourceDigests
from dreambooth_resume.models.lora import begin_from
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.new_words import new_words
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.runs.entries import SmallerMicroBatch
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.patience import patiently
from dreambooth_resume.training.batches import Share, loader_of, portions_of
from dreambooth_resume.training.class_pictures import class_pictures
from dreambooth_resume.training.ema import Ema
from dreambooth_resume.training.groups import parameter_groups
from dreambooth_resume.training.hands import Hands
from dreambooth_resume.training.latents import held_out_slots, held_out_source, sample_source
from dreambooth_resume.training.memory import Portions
from dreambooth_resume.training.model import LoadedModel, Pair, load_model, prompts_for
from dreambooth_resume.training.objective import Objective, objective_of
from dreambooth_resume.training.optimizer import Optimizer
from dreambooth_resume.training.optimizers.base import ParameterGroup
from dreambooth_resume.training.precision import accelerates_precision, make_scaler
from dreambooth_resume.training.preview import Easel, Embeddings, Timetable
from dreambooth_resume.training.progress import Reporter
from dreambooth_resume.training.state import TrainingState
from dreambooth_resume.training.step import (
    Prompts,
    StepMetrics,
    TrainableModel,
    train_step,
)
from dreambooth_resume.training.validation_loss import HeldOutLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What is to be trained, on what: settled before any weight is loaded."""

    options: TrainOptions
    seed: int
    max_train_steps: int
    plan: Plan
    pictures: PictureSet
    source: ModelSource
    family: Family
    facts: ModelFacts
    digests: SourceDigests
    lora: LoraSpec
    existing: ExistingLora | None = None
    """The LoRA that the run begins from, if it isn't a fresh one."""
    smaller_micro_batch: SmallerMicroBatch | None = None
    """What the run's log says of a device that ran out of memory."""
    class_pictures: ClassPictures | None = None
    """What prior preservation trains beside `pictures`."""
    shots: tuple[Shot, ...] = ()
    """The prompts of validation_prompts_file."""
    held_out: PictureSet | None = None
    """What the validation loss is measured on."""
    held_out_in_buckets: bool = True
    """They are cut as the pictures that train; else to squares, as in runs of earlier releases."""

    @property
    def timetable(self) -> Timetable:
        """When pictures and the validation loss are due."""
        return Timetable(
            options=self.options.validation, plan=self.plan, max_train_steps=self.max_train_steps, shots=self.shots
        )

    @property
    def processes_at_start(self) -> int:
        """How many processes the run was begun with: its B counts them."""
        training = self.options.training
        return self.plan.batch_size // (training.train_batch_size * training.gradient_accumulation_steps) or 1

    def is_saved_at(self, step: int) -> bool:
        """Whether as many epochs have ended with the update `step` as are saved, whatever the interval of saves."""
        every = self.options.checkpoints.save_every_n_epochs
        return every is not None and any((epoch + 1) % every == 0 for epoch in self.plan.epochs_ended(step))


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What other processes need to know to compute their part of each step."""

    assignment: Assignment
    torch_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the trainer drives."""

    state: TrainingState
    loader: Loader
    portions: Portions
    train_step: Callable[..., StepMetrics]
    easel: Easel
    """To make pictures with what trains."""
    held_out_loss: HeldOutLoss | None
    """To measure the validation loss; None without held-out pictures."""
    modules: tuple[torch.nn.Module, ...]
    """What the denoiser's parameters are of, in the order in which Diffusers' script has them."""
    export_weights: Callable[[Mapping[str, torch.Tensor]], tuple[Mapping[str, torch.Tensor], Mapping[str, str]]]


def make_accelerator(options: TrainOptions) -> Accelerator:
    """Device and autocast. Accumulation, clipping and saving are ours: the sums have to be the same on any machine."""
    accelerator = _accelerator(options)
    if (backend := options.training.compiled_by) is not None:
        refuse_without_a_compiler(backend, accelerator.device)
    if options.training.enable_xformers_memory_efficient_attention and accelerator.device.type != "cuda":
        raise BadInput(
            f"xFormers' attention needs an NVIDIA GPU, and this machine trains on {accelerator.device.type}",
            where="enable_xformers_memory_efficient_attention",
            fix="leave it out: torch's own attention is used then",
        )
    return accelerator


def _accelerator(options: TrainOptions) -> Accelerator:
    # Without the plugin `backward` divides by what `accelerate launch` left in the environment.
    return Accelerator(
        mixed_precision=accelerates_precision(options.training.precision),
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )


def build_parts(
    assignment: Assignment,
    storage: Storage,
    *,
    accelerator: Accelerator,
    reporter: Reporter,
    watcher: Watcher,
    hands: Hands | None = None,
) -> Parts:
    """Encode what the cache lacks, load the denoiser and put the fresh adapter on it.

    Raises Interrupted or StoppedOnPurpose for a notice between two of these; what was encoded until then is kept.
    """
    options = assignment.options
    device = accelerator.device
    encoders = assignment.family.encoders(assignment.source, device=device)
    ridden = patiently(
        lambda: class_pictures(assignment, storage, encoders, device=device, reporter=reporter, watcher=watcher),
        tell=reporter.message,
        should_stop=watcher.should_stop,
    )
    # Behind the others, as the plan counts them.
    assignment = replace(assignment, pictures=PictureSet(pictures=(*assignment.pictures.pictures, *ridden)))
    pairs, samples, held_out = patiently(
        lambda: encode(assignment, storage, encoders, reporter=reporter, watcher=watcher),
        tell=reporter.message,
        should_stop=watcher.should_stop,
    )
    encoders.free()
    watcher.leave_if_asked("encoding")
    if hands is not None:
        # Only now: the hands find all that they need in the cache.
        # They get the parameters in each step, so they need no weights to begin from.
        theirs = replace(assignment, existing=None)
        hands.assign(Work(assignment=theirs, torch_threads=torch.get_num_threads()))
    what = "the denoiser and the text encoders" if options.text_part is not None else "the denoiser"
    reporter.message(f"Loading {what}.")
    model, loaded = trainable(assignment, encoders, pairs, accelerator=accelerator)
    _say_what_happens(assignment, reporter)
    if assignment.existing is not None:
        begin_from(loaded.parameters, assignment.existing.values)
    optimizer = Optimizer(groups_of(assignment, loaded), options.optimization)
    watcher.leave_if_asked(f"loading {what}")
    portions = portions_of(assignment, samples, device, share=Share(processes=hands.processes if hands else 1))
    ema = Ema(loaded.parameters, decay=options.ema.ema_decay) if options.ema.use_ema else None
    state = TrainingState(optimizer, lr_scheduler=options.optimization.lr_scheduler, scaler=model.scaler, ema=ema)
    return Parts(
        state=state,
        easel=_easel(assignment, model, loaded, encoders, pairs, state=state),
        held_out_loss=_held_out_loss(assignment, model, loaded, pairs, held_out, state=state),
        loader=loader_of(assignment, portions),
        portions=portions,
        train_step=partial(
            train_step,
            model,
            optimizer=optimizer,
            max_grad_norm=options.optimization.max_grad_norm,
            ema=ema,
            hands=hands.when_ready(loaded.parameters, portions, watcher) if hands else None,
        ),
        modules=(loaded.denoiser.module,),
        export_weights=lambda tensors: loaded.export_weights(state.result(tensors)),
    )


def groups_of(assignment: Assignment, loaded: LoadedModel) -> tuple[ParameterGroup, ...]:
    """Which parameters are updated in which step, and at which rate."""
    return parameter_groups(
        assignment.options,
        loaded.parameters_by_part(),
        max_train_steps=assignment.max_train_steps,
        processes=assignment.processes_at_start,
    )


def trainable(
    assignment: Assignment, encoders: Encoders, pairs: Mapping[str, Pair], *, accelerator: Accelerator
) -> tuple[TrainableModel, LoadedModel]:
    """The denoiser with its fresh adapter, and what it reads beside the batch."""
    options, device = assignment.options, accelerator.device
    loaded = _load(assignment, device)
    model = TrainableModel(
        denoiser=loaded.denoiser,
        parameters=loaded.parameters,
        prompts=_prompts(assignment, loaded, pairs, device=device),
        accelerator=accelerator,
        encode_pixels=None if options.data.cache_latents else encoders.encode_pixels,
        scaler=make_scaler(options.training.precision, device),
        new_tokens=loaded.new_tokens,
        objective=objective_of(options.loss, is_edm=assignment.facts.is_edm),
    )
    return model, loaded


def _load(assignment: Assignment, device: torch.device) -> LoadedModel:
    return load_model(
        assignment.options,
        lora=assignment.lora,
        family=assignment.family,
        source=assignment.source,
        seed=assignment.seed,
        device=device,
    )


def _say_what_happens(assignment: Assignment, reporter: Reporter) -> None:
    """In pivotal tuning what stands for which tokens, the step in which something stops being trained, and that the
    first steps take long.
    """
    options = assignment.options
    if (backend := options.training.compiled_by) is not None:
        reporter.message(
            f"The first step of each shape of pictures compiles the UNet ({backend}), which takes minutes."
        )
    if (words := new_words(options.tokens)) is not None:
        pairs = ", ".join(f"{word} is {''.join(tokens)}" for word, tokens in words.tokens_of.items())
        reporter.message(f"In prompts and captions {pairs}.")
    pivot = pivot_step(options.text_part or 1.0, max_train_steps=assignment.max_train_steps)
    if pivot is not None:
        what = "the new tokens" if words else "the text encoders"
        reporter.message(
            f"Up to step {pivot} of {assignment.max_train_steps} {what} are trained beside the UNet's LoRA."
        )


def _prompts(
    assignment: Assignment, loaded: LoadedModel, pairs: Mapping[str, Pair], *, device: torch.device
) -> Prompts:
    zeros = assignment.facts.empty_prompt_is_zeros
    return prompts_for(_trained_prompts(assignment), loaded, pairs, zeros=zeros, device=device)


def _held_out_loss(
    assignment: Assignment,
    model: TrainableModel,
    loaded: LoadedModel,
    pairs: Mapping[str, Pair],
    held_out: LatentSource | None,
    *,
    state: TrainingState,
) -> HeldOutLoss | None:
    if held_out is None or assignment.held_out is None:
        return None
    pictures = assignment.held_out
    samples = [held_out(slot) for slot in held_out_slots(assignment)]
    timesteps = assignment.facts.num_train_timesteps
    prompts = prompts_for(pictures.prompts, loaded, pairs, zeros=False, device=model.accelerator.device)
    text_encoders = loaded.text_encoders.models.values() if loaded.text_encoders else ()
    return HeldOutLoss(
        model=replace(model, prompts=prompts, objective=Objective(edm_style=model.objective.edm_style)),
        held_out=HeldOut(pictures, samples, seed=assignment.seed, train_timesteps=timesteps),
        modules=(loaded.denoiser.module, *text_encoders),
        result_in_place=state.result_in_place,
    )


def encode(
    assignment: Assignment,
    storage: Storage,
    encoders: Encoders,
    *,
    reporter: Reporter,
    watcher: Watcher,
) -> tuple[dict[str, Pair], SampleSource, LatentSource | None]:
    """Every prompt's embeddings, and where samples and held-out ones come from. Encodes only what the home lacks.

    No embeddings where the text encoders are trained: they are others after every step.
    """
    cache = Cache(storage)
    prompt_key = assignment.family.prompt_key(assignment.digests)
    fixed = [] if assignment.options.text_part is not None else _all_prompts(assignment)
    clip_skip = assignment.options.model.clip_skip
    encode_prompt = partial(encoders.encode_prompt, clip_skip=clip_skip)
    entries = [prompt_entry(prompt, encoder=prompt_key, encode=encode_prompt, clip_skip=clip_skip) for prompt in fixed]
    filled = not entries or cache.fill(
        entries, should_stop=watcher.should_stop, on_progress=partial(reporter.phase, "encoding prompts")
    )
    samples = sample_source(assignment, cache, encoders)
    held_out = held_out_source(assignment, cache, encoders)
    entries_of = [one.entries for one in (samples, held_out) if isinstance(one, LatentSource)]
    for latents in entries_of if filled else ():
        on_progress = partial(reporter.phase, "encoding pictures")
        filled = filled and cache.fill(latents, should_stop=watcher.should_stop, on_progress=on_progress)
    if not filled:
        watcher.leave_if_asked("encoding")
    arrays = {str(entry.recipe["prompt"]): cache.arrays(entry) for entry in entries}
    return {prompt: (one["prompt_embeds"], one["pooled"]) for prompt, one in arrays.items()}, samples, held_out


def _all_prompts(assignment: Assignment) -> list[str]:
    """Each once."""
    held_out = assignment.held_out.prompts if assignment.held_out else ()
    return list(dict.fromkeys([*_trained_prompts(assignment), *_preview_prompts(assignment), *held_out]))


def _trained_prompts(assignment: Assignment) -> tuple[str, ...]:
    return prompt_draws_of(assignment.options.data).prompts(assignment.pictures, assignment.plan)


def _preview_prompts(assignment: Assignment) -> tuple[str, ...]:
    """The prompts of pictures that will be made with the LoRA, and the one that those are steered away from."""
    chosen = assignment.options.validation
    asked = [chosen.validation_prompt or chosen.final_validation_prompt]
    wanted = [prompt for prompt in asked if prompt is not None and chosen.num_validation_images > 0]
    wanted += [prompt for shot in assignment.shots for prompt in (shot.prompt, shot.negative_prompt) if prompt]
    return (*wanted, "") if wanted else ()


def _easel(
    assignment: Assignment,
    model: TrainableModel,
    loaded: LoadedModel,
    encoders: Encoders,
    pairs: Mapping[str, Pair],
    *,
    state: TrainingState,
) -> Easel:
    """What pictures are made with: the very denoiser that trains, and the text encoders if they do."""
    device, facts, side = model.accelerator.device, assignment.facts, assignment.options.data.resolution

    def embed(prompt: str) -> Embeddings:
        # Somebody may ask for pictures of any prompt in the middle of a training.
        clip_skip = assignment.options.model.clip_skip
        pair = pairs[prompt] if prompt in pairs else encoders.encode_prompt(prompt, clip_skip=clip_skip)
        embeds, pooled = (torch.from_numpy(np.array(one)).to(device) for one in pair)
        return embeds, pooled

    return Easel(
        denoiser=model.denoiser,
        sampler=assignment.family.sampler(assignment.source, device=device),
        encoders=encoders,
        embed=embed if loaded.text_encoders is None else loaded.embed,
        adapter=lambda: model.parameters,
        result_in_place=state.result_in_place,
        autocast=model.accelerator.autocast,
        noise_shape=(facts.latent_channels, side // facts.pixels_per_latent, side // facts.pixels_per_latent),
        height=side,
        width=side,
        frees_encoders=model.encode_pixels is None,
        edm_style=model.objective.edm_style,
    )
