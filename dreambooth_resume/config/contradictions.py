"""Options that are right one by one and wrong together; and those that have no effect beside others."""

from __future__ import annotations

from collections.abc import Mapping

from dreambooth_resume.config.contradictions_lora import refuse_beside_another_kind
from dreambooth_resume.config.contradictions_loss import refuse_loss_contradictions, without_effect_on_the_loss
from dreambooth_resume.config.contradictions_optimizer import (
    refuse_optimizer_contradictions,
    without_effect_on_the_optimizer,
)
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.schema import OPTIONS, flatten
from dreambooth_resume.errors import BadInput

_DATA_SET = ("dataset_config_name", "image_column")
_BUCKET = ("s3_endpoint_url", "s3_region", "s3_addressing_style", "s3_sse", "s3_kms_key_id")
_NEW_TOKENS = ("token_abstraction", "num_new_tokens_per_abstraction", "train_text_encoder_ti_frac")
_PRIOR = (
    "class_data_dir",
    "class_prompt",
    "num_class_images",
    "prior_loss_weight",
    "prior_generation_precision",
    "sample_batch_size",
)

_OF_THE_FILE = (
    "lora_type",
    "lora_layers",
    "lora_unet_blocks",
    "use_blora",
    "conv_dim",
    "conv_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_dora",
)

POLYNOMIAL_END = 1e-7
"""Where Diffusers' polynomial schedule ends, whatever it starts from."""


def refuse_contradictions(options: TrainOptions, sources: Mapping[str, str]) -> None:
    """Raises BadInput for options that contradict each other, as far as that shows before the pictures are read."""
    if options.training.max_train_steps is not None:
        refuse_endless_warmup(options, sources, max_train_steps=options.training.max_train_steps)
    if options.machine.local_rank > 0:
        raise BadInput(
            f"process {options.machine.local_rank} of several, and not of how many",
            where=sources.get("local_rank"),
            fix="start one process, which starts the others: dbr train --num_processes GPUS …",
        )
    refuse_optimizer_contradictions(options, sources)
    if options.lora.network_weights is not None:
        _refuse_layers_beside_a_lora(options, sources)
    if options.training.quantised_base is not None and options.lora.use_dora:
        raise BadInput(
            f"use_dora does not go with base_precision {options.training.quantised_base}: it needs the lengths of the "
            "weights' rows as they are",
            where=sources.get("base_precision") or sources.get("use_dora"),
            fix="leave one of the two out",
        )
    if options.training.torch_compile and options.training.offload:
        raise BadInput(
            "offload sends layers to the device while they compute, which torch_compile would build in for good",
            where=sources.get("torch_compile") or sources.get("offload"),
            fix="leave one of the two out",
        )
    refuse_beside_another_kind(options, sources)
    _refuse_polynomial_that_climbs(options, sources)
    refuse_loss_contradictions(options, sources)
    _refuse_buckets_beside_squares(options, sources)
    _refuse_beside_new_tokens(options, sources)
    _refuse_to_give_the_token_away(options, sources)
    if options.checkpoints.resume_request_id is not None and options.checkpoints.resume_from_checkpoint is None:
        raise BadInput(
            "names a wish to go back, but no step to go back to",
            where=sources.get("resume_request_id"),
            fix="add --resume STEP, or leave it out",
        )


def _refuse_layers_beside_a_lora(options: TrainOptions, sources: Mapping[str, str]) -> None:
    for name in _OF_THE_FILE:
        if getattr(options.lora, name) != OPTIONS[name].default:
            raise BadInput(
                f"{name} does not go with network_weights, whose file says which layers there are, and how strong",
                where=sources.get(name, name),
                fix="leave one of the two out",
            )
    if options.checkpoints.seed_folder is not None:
        raise BadInput(
            "a run begins from a LoRA or from a checkpoint of Diffusers' script, not from both",
            where=sources.get("network_weights"),
            fix="leave one of the two out",
        )


def refuse_two_sources(options: TrainOptions, sources: Mapping[str, str]) -> None:
    """Raises BadInput for a folder of pictures beside a data set: a run has one of them."""
    data = options.data
    if data.dataset_name is not None and data.instance_data_dir is not None:
        raise BadInput(
            f"the pictures are those of instance_data_dir {data.instance_data_dir} and of dataset_name "
            f"{data.dataset_name}",
            where=sources.get("dataset_name") or sources.get("instance_data_dir"),
            fix="give one of the two; for captions beside the pictures of a folder give it as dataset_name alone",
        )


def _refuse_beside_new_tokens(options: TrainOptions, sources: Mapping[str, str]) -> None:
    if not options.tokens.train_text_encoder_ti:
        return
    where = sources.get("train_text_encoder_ti")
    if options.lora.train_text_encoder:
        raise BadInput(
            "the text encoders get a LoRA (train_text_encoder) or new tokens (train_text_encoder_ti), not both",
            where=where or sources.get("train_text_encoder"),
            fix="leave out one of the two",
        )
    if options.lora.network_weights is not None:
        raise BadInput(
            "new tokens are trained beside a LoRA that begins with them, not beside one that was trained without",
            where=where or sources.get("network_weights"),
            fix="leave out --network_weights or --train_text_encoder_ti",
        )
    if options.optimization.optimizer == "AdamWScheduleFree":
        raise BadInput(
            "optimizer AdamWScheduleFree does not go with new tokens: what it averages is the LoRA alone",
            where=where or sources.get("optimizer"),
            fix="take another --optimizer, or leave out --train_text_encoder_ti",
        )


def _refuse_buckets_beside_squares(options: TrainOptions, sources: Mapping[str, str]) -> None:
    data = options.data
    if data.aspect_ratio_buckets is not None and data.use_aspect_ratio_buckets is False:
        raise BadInput(
            "lists the shapes of buckets, and use_aspect_ratio_buckets is off",
            where=sources.get("aspect_ratio_buckets") or sources.get("use_aspect_ratio_buckets"),
            fix="leave it out, or add --use_aspect_ratio_buckets",
        )


def refuse_shapes_without_buckets(options: TrainOptions, sources: Mapping[str, str]) -> None:
    """Raises BadInput for shapes of buckets that are given to a run from before there were any, which has none.

    It has no record of them, so nothing contradicts itself in its options.
    """
    data = options.data
    if data.aspect_ratio_buckets is not None and not data.use_aspect_ratio_buckets:
        raise BadInput(
            "lists the shapes of buckets, and the run has none",
            where=sources.get("aspect_ratio_buckets"),
            fix="leave it out; for buckets from the next step on add --use_aspect_ratio_buckets --allow_change "
            "use_aspect_ratio_buckets,aspect_ratio_buckets",
        )


def refuse_half_a_prior(options: TrainOptions, sources: Mapping[str, str]) -> None:
    """Raises BadInput for prior preservation without a prompt."""
    prior = options.prior
    if not prior.with_prior_preservation:
        return
    if prior.class_prompt is None:
        raise BadInput(
            "prior preservation needs a prompt for the class pictures",
            where=sources.get("with_prior_preservation"),
            fix='add --class_prompt "a photo of a dog", with your subject\'s class in place of the dog',
        )


def _refuse_to_give_the_token_away(options: TrainOptions, sources: Mapping[str, str]) -> None:
    if options.reporting.hub_token is not None and options.reporting.report_to in ("wandb", "all"):
        raise BadInput(
            "can't be given beside report_to wandb: Weights & Biases records the command line, and the token in it",
            where=sources.get("hub_token"),
            fix="leave it out, and type: hf auth login (or set HF_TOKEN)",
        )
    if options.reporting.notify is not None and options.reporting.report_to in ("wandb", "all"):
        raise BadInput(
            "can't be given beside report_to wandb: Weights & Biases records the command line, and the address in it",
            where=sources.get("notify"),
            fix="leave it out, and set the environment variable DBR_NOTIFY",
        )


def refuse_cost_without_price(options: TrainOptions, sources: Mapping[str, str]) -> None:
    """Raises BadInput for a budget in dollars where nobody knows what the machine costs."""
    budget = options.budget
    if budget.max_cost is not None and budget.price_per_hour is None:
        raise BadInput(
            f"a budget of ${budget.max_cost:g}, and nobody knows what this machine costs",
            where=sources.get("max_cost", "max_cost"),
            fix="add --price_per_hour, in US dollars; or take the budget away: --max_cost none",
        )


def refuse_endless_warmup(options: TrainOptions, sources: Mapping[str, str], *, max_train_steps: int) -> None:
    """Raises BadInput if the learning rate would still be rising at the last step.

    Called again once the pictures are counted, when the run's length comes from num_train_epochs.
    """
    optimization = options.optimization
    if optimization.lr_scheduler == "constant" or optimization.warmup_steps(max_train_steps) < max_train_steps:
        return
    where = sources.get("lr_warmup_steps") or sources.get("max_train_steps") or sources.get("lr_scheduler")
    default = "" if "lr_warmup_steps" in sources else " (the default)"
    shorter = max(1, max_train_steps // 10) if max_train_steps > 1 else 0
    raise BadInput(
        f"lr_warmup_steps is {optimization.lr_warmup_steps}{default}, but the run has {max_train_steps} steps: "
        "the learning rate would never be reached",
        where=where,
        fix=f"type --lr_warmup_steps {shorter}, or --lr_scheduler constant",
    )


def _refuse_polynomial_that_climbs(options: TrainOptions, sources: Mapping[str, str]) -> None:
    optimization = options.optimization
    if optimization.lr_scheduler != "polynomial":
        return
    rates = {"learning_rate": optimization.learning_rate}
    if options.text_part is not None and optimization.optimizer != "prodigy":
        rates["text_encoder_lr"] = optimization.text_encoder_lr
        if optimization.text_encoder_2_lr is not None:
            rates["text_encoder_2_lr"] = optimization.text_encoder_2_lr
    for name, rate in rates.items():
        if rate <= POLYNOMIAL_END:
            raise BadInput(
                f"{name} {rate:g} is not above {POLYNOMIAL_END:g}, to which lr_scheduler polynomial falls",
                where=sources.get(name) or sources.get("lr_scheduler"),
                fix=f"give a greater --{name} or another --lr_scheduler",
            )


def remarks(options: TrainOptions, sources: Mapping[str, str]) -> tuple[str, ...]:
    """What a user should know though nothing is wrong: an odd value, or a given option without effect."""
    training = options.training
    idle = without_effect_on_the_optimizer(options)
    if training.max_train_steps is not None:
        idle["num_train_epochs"] = f"max_train_steps {training.max_train_steps} wins"
    idle |= _without_effect_on_the_lora(options)
    if not options.lora.train_text_encoder:
        idle["train_text_encoder_frac"] = "the text encoders get a LoRA only with train_text_encoder"
    if not options.tokens.train_text_encoder_ti:
        idle |= dict.fromkeys(_NEW_TOKENS, "new tokens come with train_text_encoder_ti")
    if options.machine.dataloader_num_workers == 0:
        idle["prefetch_factor"] = "nothing is prepared ahead with dataloader_num_workers 0"
    if not training.torch_compile:
        idle["dynamo_backend"] = "nothing is compiled without torch_compile"
    if options.data.dataset_name is None:
        idle |= dict.fromkeys(_DATA_SET, "only a data set has configurations and columns: dataset_name")
        if options.data.caption_strategy not in (None, "auto", "metadata"):
            idle["caption_column"] = f"caption_strategy {options.data.caption_strategy} reads no columns"
    else:
        idle["caption_strategy"] = "the captions of a data set are in its caption_column"
    if not options.data.shuffle_caption:
        idle |= dict.fromkeys(("keep_tokens", "caption_separator"), "only shuffle_caption looks at single tags")
    if not options.prior.with_prior_preservation:
        idle |= dict.fromkeys(_PRIOR, "only with_prior_preservation has class pictures")
    if not any(str(one).startswith("s3://") for one in _may_be_in_a_bucket(options)):
        idle |= dict.fromkeys(_BUCKET, "the home is a folder; a bucket is storage_uri s3://BUCKET/NAME")
    idle |= without_effect_on_the_loss(options) | _without_effect_on_what_comes_out(options)
    values = flatten(options)
    return _odd_values(options) + tuple(
        f"{name} has no effect: {reason}"
        for name, reason in idle.items()
        # 0 is how people write "no warm-up" beside constant; a template's defaults are no wish, either.
        if name in sources and (name, values[name]) != ("lr_warmup_steps", 0) and values[name] != OPTIONS[name].default
    )


def _may_be_in_a_bucket(options: TrainOptions) -> tuple[str | None, ...]:
    model = options.model
    return (
        options.storage.storage_uri,
        options.checkpoints.output_dir,
        model.pretrained_model_name_or_path,
        model.pretrained_vae_model_name_or_path,
        model.base_config,
    )


def _odd_values(options: TrainOptions) -> tuple[str, ...]:
    optimization, prior = options.optimization, options.prior
    found: list[str] = []
    if optimization.optimizer == "prodigy" and optimization.learning_rate <= 0.1:
        found.append(
            f"learning_rate is {optimization.learning_rate:g}: prodigy multiplies it with a step size that it finds "
            "itself, and 1 is usual"
        )
    is_own = prior.class_data_dir is not None and prior.class_data_dir == options.data.instance_data_dir
    if prior.with_prior_preservation and is_own:
        found.append(
            "class_data_dir is the folder of the subject's own pictures, so the class is not preserved: name another "
            "folder, or leave it out, and the base model makes the class pictures"
        )
    return tuple(found)


def _without_effect_on_the_lora(options: TrainOptions) -> dict[str, str]:
    idle: dict[str, str] = {}
    if options.lora.lora_type != "lokr":
        idle["lokr_factor"] = "only lora_type lokr has one"
    if options.lora.use_blora:
        idle["lora_unet_blocks"] = "use_blora has blocks of its own, and wins"
    if options.lora.conv_dim is None:
        idle["conv_alpha"] = "there is a LoRA on convolutions only with conv_dim"
    return idle


def _without_effect_on_what_comes_out(options: TrainOptions) -> dict[str, str]:
    idle: dict[str, str] = {}
    validation = options.validation
    if validation.validation_prompt is None:
        if validation.validation_prompts_file is None and validation.validation_data_dir is None:
            idle |= dict.fromkeys(("validation_epochs", "validation_steps"), "there is no validation_prompt")
        if validation.final_validation_prompt is None:
            idle["num_validation_images"] = "there is no validation_prompt"
    else:
        idle["final_validation_prompt"] = "validation_prompt wins"
    if validation.validation_steps is not None and "validation_epochs" not in idle:
        idle["validation_epochs"] = f"validation_steps {validation.validation_steps} wins"
    if not options.reporting.push_to_hub:
        idle |= dict.fromkeys(("hub_model_id", "hub_strategy", "hub_token"), "push_to_hub is off")
    return idle
