"""The adapter that the options ask for on this base model: which layers, of what rank, and what it starts from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from dreambooth_resume.config.load import with_values
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.base import ExistingLora, Family
from dreambooth_resume.models.lora_layers import LayerChoice, LayerSize, LoraSpec
from dreambooth_resume.models.source import ModelSource

_TEXT_PARTS = ("text_encoder", "text_encoder_2")


def adapter_of(
    options: TrainOptions, family: Family, source: ModelSource | None, *, existing: ExistingLora | None = None
) -> LoraSpec:
    """Known before any weight is read. Raises BadInput for a layer or block that the model lacks.

    `source` None: on the family's published model. With an `existing` LoRA the layers are that one's, and `options`
    have its rank and alpha.
    """
    chosen = options.lora
    if existing is not None:
        sizes: Mapping[str, Mapping[str, LayerSize]] = existing.sizes
    else:
        choice = LayerChoice(
            layers=chosen.layers,
            blocks=chosen.blocks,
            conv_rank=chosen.conv_dim,
            conv_alpha=chosen.conv_alpha if chosen.conv_dim else None,
            ranks=chosen.ranks,
            alphas=chosen.alphas,
        )
        sizes = family.adapter_sizes(source, choice, rank=chosen.rank, alpha=chosen.lora_alpha)
    return LoraSpec(
        rank=chosen.rank,
        alpha=chosen.alpha,
        dropout=chosen.lora_dropout,
        dora=chosen.use_dora,
        kind=chosen.lora_type,
        factor=chosen.lokr_factor,
        sizes=sizes,
    )


def with_its_size(options: TrainOptions, sources: Mapping[str, str], existing: ExistingLora) -> TrainOptions:
    """The options of a new run that begins from this LoRA: with its rank and alpha, those of most of its layers.

    Raises BadInput for others that were given, and for a LoRA on text encoders that are not trained.
    """
    where = f"--network_weights {options.lora.network_weights}"
    if not options.lora.train_text_encoder and any(part in existing.sizes for part in _TEXT_PARTS):
        raise BadInput(
            "has a LoRA on the text encoders, which would be lost",
            where=where,
            fix="add --train_text_encoder, or give a file for the UNet alone",
        )
    unet = existing.sizes.get("unet")
    if unet is None:
        raise BadInput("has no LoRA on the UNet", where=where, fix="give another file")
    size = Counter(unet.values()).most_common(1)[0][0]
    for name, theirs, ours in (
        ("rank", size.rank, options.lora.rank),
        ("lora_alpha", size.alpha, options.lora.lora_alpha),
    ):
        if name in sources and ours is not None and ours != theirs:
            raise BadInput(
                f"{name} is {ours:g}, and the LoRA that the run begins from has {theirs:g}",
                where=sources[name],
                fix="leave it out: the file's is taken",
            )
    return with_values(options, {"rank": size.rank, "lora_alpha": size.alpha})
