"""What can be wrong is found here, before a model is loaded or a byte of the run is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue

from dreambooth_resume.config.change_policy import OptionChange, allowed_names, compare
from dreambooth_resume.config.contradictions import (
    refuse_cost_without_price,
    refuse_endless_warmup,
    refuse_half_a_prior,
    refuse_shapes_without_buckets,
    refuse_two_sources,
)
from dreambooth_resume.config.contradictions_loss import refuse_beside_edm, refuse_timesteps_beyond
from dreambooth_resume.config.load import GivenOptions, record, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.schema import flatten
from dreambooth_resume.data.buckets import buckets_of
from dreambooth_resume.data.class_images import ClassPictures
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.errors import BadInput, RefusedToGoOn
from dreambooth_resume.models.base import ExistingLora, Family, ModelFacts
from dreambooth_resume.models.digests import SourceDigests, default_cache_file, digest_files
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.in_a_bucket import ModelsInBuckets
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.new_words import new_words
from dreambooth_resume.models.source import ModelSource, resolve_source
from dreambooth_resume.runs.adoption import LATEST
from dreambooth_resume.runs.entries import ChangedOption
from dreambooth_resume.workflows.adapter import adapter_of, with_its_size
from dreambooth_resume.workflows.class_pictures import find_class_pictures
from dreambooth_resume.workflows.existing import StartingWeights, find_weights
from dreambooth_resume.workflows.first_start import decided, refuse_masks_that_are_not_there, with_buckets_decided
from dreambooth_resume.workflows.home import Home, s3_settings
from dreambooth_resume.workflows.packages import refuse_missing_packages
from dreambooth_resume.workflows.pictures import DataSets, buckets_for, find_datasets
from dreambooth_resume.workflows.room import check_room
from dreambooth_resume.workflows.seeding import Seed, find_seed
from dreambooth_resume.workflows.shots import FoundShots, find_shots
from dreambooth_resume.workflows.trackers import check_trackers
from dreambooth_resume.workflows.validation_pictures import ValidationPictures, find_validation_pictures

_FOLDERS = (
    "pretrained_model_name_or_path",
    "pretrained_vae_model_name_or_path",
    "base_config",
    "instance_data_dir",
    "class_data_dir",
    "validation_data_dir",
    "dataset_name",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of this attempt, and those that were given otherwise than the run has them."""

    train: TrainOptions
    changes: tuple[OptionChange, ...]
    sources: Mapping[str, str]
    """Where each given option was given."""
    before: TrainOptions | None = None
    """What the run has; None for a new one."""

    @property
    def changed(self) -> dict[str, JsonValue]:
        """What later attempts are to take over."""
        now = as_json(record(self.train))
        return {change.name: now[change.name] for change in self.changes}

    @property
    def changes_for_the_log(self) -> tuple[ChangedOption, ...]:
        """The changes as this attempt's `adopt` entry keeps them."""
        return changes_for_the_log(self.changes, self.changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the run is trained on and with, all of it at hand on this machine."""

    source: ModelSource
    family: Family
    facts: ModelFacts
    digests: SourceDigests
    datasets: DataSets
    lora: LoraSpec
    weights: StartingWeights | None = None
    """The LoRA file that the run begins from."""
    existing: ExistingLora | None = None
    """What it holds."""
    class_pictures: ClassPictures | None = None
    shots: FoundShots = field(default_factory=FoundShots)
    validation: ValidationPictures | None = None
    """The held-out ones."""

    @property
    def to_store(self) -> tuple[tuple[str, PictureSet], ...]:
        """Lists and pictures that the home has no copies of yet."""
        return (*self.datasets.to_store, *(self.validation.to_store if self.validation else ()))

    @property
    def pictures(self) -> PictureSet:
        """What is trained on from now on."""
        return self.datasets.pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A start in which everything was found that could be found wrong without torch."""

    home: Home
    options: Options
    inputs: Inputs
    plan: Plan
    max_train_steps: int
    begins_from: Seed | None = None
    """A checkpoint of Diffusers' script."""


def choose_options(home: Home, given: GivenOptions) -> Options:
    """The options to train with. Raises BadInput for a run that nobody asked to resume.

    Refused changes are among `changes`: the caller shows all of them before it refuses.
    """
    given = with_absolute_folders(given)
    allowed_names(given)
    if home.record is None:
        fresh = resolve(given, recorded=None)
        refuse_two_sources(fresh, given.sources)
        refuse_half_a_prior(fresh, given.sources)
        return Options(train=decided(fresh), changes=(), sources=given.sources)
    recorded = home.recorded
    assert recorded is not None
    options = resolve(given, recorded=recorded)
    refuse_shapes_without_buckets(options, given.sources)
    if options.checkpoints.resume_from_checkpoint is None:
        raise BadInput(
            f"the folder holds a run already ({_progress(home)})",
            where=home.place.flag,
            fix="--resume latest to go on with it, or another --output_dir for a new run",
        )
    before = resolve(replace(given, values={}, sources={}), recorded=recorded)
    return Options(train=options, changes=compare(recorded, given), sources=given.sources, before=before)


def refuse_going_back_behind_the_end(home: Home, options: Options) -> None:
    """Raises BadInput if a finished run is asked to go back, unless that was done before it finished (rules 10, 11)."""
    chosen = options.train.checkpoints
    resume = chosen.resume_target or LATEST
    if resume != LATEST and not home.log.has_request(chosen.resume_request_id or resume):
        raise BadInput(
            "the run is finished, and nobody goes back behind its end",
            where=f"--resume {resume}",
            fix=f"--resume {resume} --max_train_steps MORE to reopen it there, or a new run from that step: "
            f"dbr fork HOME --step {resume} --to NEW",
        )


def check_start(home: Home, options: Options, *, reads_weights: bool = True) -> Checked:
    """Look at everything that this start needs. Raises BadInput or RefusedToGoOn for what is missing or doesn't fit.

    Without `reads_weights` the base model's files are taken for what the run was begun with, and have no digests.
    """
    chosen = options.train
    refuse_two_sources(chosen, options.sources)
    refuse_half_a_prior(chosen, options.sources)
    refuse_cost_without_price(chosen, options.sources)
    refuse_missing_packages(chosen, options.sources)
    check_trackers(chosen.reporting, options.sources)
    begins_from = find_seed(home, chosen)
    inputs = _gather_inputs(home, chosen, reads_weights=reads_weights)
    if inputs.facts.is_edm:
        refuse_beside_edm(chosen, options.sources, because="the base model is made for that alone")
    refuse_words_in_no_prompt(chosen, options.sources, inputs.pictures.prompts)
    refuse_timesteps_beyond(chosen, options.sources, train_timesteps=inputs.facts.num_train_timesteps)
    _refuse_too_few_layers(chosen, options.sources, inputs)
    if home.record is None:
        chosen = with_buckets_decided(chosen, inputs.pictures, as_before=begins_from is not None)
        if inputs.existing is not None:
            chosen = with_its_size(chosen, options.sources, inputs.existing)
            inputs = replace(inputs, lora=adapter_of(chosen, inputs.family, inputs.source, existing=inputs.existing))
        options = replace(options, train=chosen)
        refuse_masks_that_are_not_there(chosen, options.sources, inputs.pictures)
    plan = _plan(home, chosen, inputs)
    steps = chosen.training.max_train_steps or plan.steps_for_epochs(chosen.training.num_train_epochs)
    refuse_endless_warmup(chosen, options.sources, max_train_steps=steps)
    _check_length(home, chosen, max_train_steps=steps)
    check_room(home, chosen, inputs, plan, max_train_steps=steps)
    return Checked(home=home, options=options, inputs=inputs, plan=plan, max_train_steps=steps, begins_from=begins_from)


def _plan(home: Home, options: TrainOptions, inputs: Inputs) -> Plan:
    training, data = options.training, options.data
    assert training.seed is not None, "choose_options draws one where none was given"
    # However many there are today.
    processes = home.record.processes_at_start if home.record else options.machine.num_processes
    batch_size = training.train_batch_size * training.gradient_accumulation_steps * processes
    # The blocks of a run stay what they were, in whatever portions a step is computed today.
    block_size = home.record.samples_a_block if home.record else training.train_batch_size
    return Plan(
        seed=training.seed,
        picture_count=len(inputs.pictures.pictures),
        batch_size=batch_size,
        repeats=data.repeats,
        times=inputs.pictures.times,
        class_count=inputs.class_pictures.count if inputs.class_pictures else 0,
        buckets=buckets_for(inputs.pictures, buckets_of(data)),
        block_size=math.gcd(block_size, batch_size),
    )


def refuse_words_in_no_prompt(options: TrainOptions, sources: Mapping[str, str], prompts: Sequence[str]) -> None:
    """Raises BadInput for a word of token_abstraction that no prompt or caption has: its tokens would learn nothing."""
    words = new_words(options.tokens)
    missing = words.missing_in(prompts) if words else ()
    if missing:
        prompt = options.data.instance_prompt
        raise BadInput(
            f"{', '.join(missing)} is in no prompt and no caption, so its new tokens would learn nothing",
            where=sources.get("token_abstraction") or sources.get("train_text_encoder_ti"),
            fix=f'write it where the subject is meant, such as --instance_prompt "a photo of {missing[0]} dog" (now: '
            f'"{prompt}"), or name another word: --token_abstraction WORD',
        )


def changes_for_the_log(changes: Sequence[OptionChange], now: Mapping[str, JsonValue]) -> tuple[ChangedOption, ...]:
    """The changes as an `adopt` entry keeps them; `now` has the values that hold from it on."""
    return tuple(
        ChangedOption(
            name=change.name,
            before=as_json({change.name: change.before}).get(change.name),
            after=now[change.name],
            policy=str(change.policy),
            allowed=change.allowed,
            changes_the_result=change.changes_the_result,
        )
        for change in changes
    )


def as_json(values: Mapping[str, object]) -> dict[str, JsonValue]:
    """What `record` returns, which is JSON-able by its promise, as that type."""
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | bool | None)}


def _gather_inputs(home: Home, options: TrainOptions, *, reads_weights: bool) -> Inputs:
    """Find the base model and the pictures, and compare both with what the run was begun with.

    Raises BadInput for what is missing or unreadable, RefusedToGoOn for what is not what the run was begun with.
    """
    shots = find_shots(home.storage, options, is_new=home.record is None)
    datasets = find_datasets(home, options)
    class_pictures = find_class_pictures(home, options)
    pins = home.record.pins if home.record else None
    source = resolve_source(
        options.model.pretrained_model_name_or_path,
        vae_name=options.model.pretrained_vae_model_name_or_path,
        revision=(pins.base_commit if pins else None) or options.model.revision,
        vae_revision=pins.vae_commit if pins else None,
        variant=options.model.variant,
        base_config=options.model.base_config,
        hub=HuggingFaceHub(cache_dir=options.model.cache_dir),
        buckets=ModelsInBuckets(s3_settings(flatten(options).get), cache_dir=options.model.cache_dir),
    )
    family = family_named(source.family)
    facts = family.check(source)
    if reads_weights:
        digests = digest_files(source.files, cache_file=default_cache_file())
    else:
        digests = SourceDigests(pins.base_model if pins else {})
    if pins is not None and pins.base_model != dict(digests.files):
        raise RefusedToGoOn(_other_model(pins.base_model, digests.files, options))
    weights = find_weights(home, options)
    existing = None if weights is None else family.read_adapter(source, weights.body, where=weights.where)
    return Inputs(
        source=source,
        family=family,
        facts=facts,
        digests=digests,
        datasets=datasets,
        lora=adapter_of(options, family, source, existing=existing),
        weights=weights,
        existing=existing,
        class_pictures=class_pictures,
        shots=shots,
        validation=find_validation_pictures(home, options),
    )


def _refuse_too_few_layers(options: TrainOptions, sources: Mapping[str, str], inputs: Inputs) -> None:
    """Raises BadInput if the text encoders have no layer that clip_skip would leave."""
    most = inputs.facts.text_layers - 1
    if (options.model.clip_skip or 0) > most:
        raise BadInput(
            f"the model's smaller text encoder has {inputs.facts.text_layers} layers, so at most {most} can be skipped",
            where=sources.get("clip_skip", "clip_skip"),
            fix=f"give at most {most}",
        )


def _check_length(home: Home, options: TrainOptions, *, max_train_steps: int) -> None:
    """Raises BadInput if the run has come further than it is to go."""
    last = home.log.last
    resume = options.checkpoints.resume_target
    if last is not None and resume == LATEST and last.state.step > max_train_steps:
        raise BadInput(
            f"the run has made {last.state.step} steps already",
            where=f"--max_train_steps {max_train_steps}",
            fix=f"give more steps, or go back to a checkpoint: --resume {max_train_steps}",
        )


def with_absolute_folders(given: GivenOptions) -> GivenOptions:
    """Folders (and the base model's file) that are there, by their absolute paths: the run may be resumed from another
    working directory.
    """
    folders = {
        name: str(Path(str(given.values[name])).absolute())
        for name in _FOLDERS
        if name in given.values and Path(str(given.values[name])).exists()
    }
    return replace(given, values={**given.values, **folders})


def _other_model(then: Mapping[str, str], now: Mapping[str, str], options: TrainOptions) -> str:
    differing = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    return (
        f"The base model {options.model.pretrained_model_name_or_path} is not the one that the run was begun with: "
        f"{', '.join(differing[:3])} differ{'s' if len(differing) == 1 else ''}. Point "
        "--pretrained_model_name_or_path to the first one, or begin a new run with another --output_dir."
    )


def _progress(home: Home) -> str:
    state = home.log.last.state if home.log.last else None
    if state is None:
        return "not yet trained"
    done = "finished, " if home.log.finished else ""
    return f"{done}step {state.step} of {state.max_train_steps}"
