"""The adapter that the options ask for on this base model: which layers, of what rank."""

from __future__ import annotations

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.models.base import Family
from dreambooth_resume.models.lora_layers import LayerChoice, LoraSpec
from dreambooth_resume.models.source import ModelSource


def adapter_of(options: TrainOptions, family: Family, source: ModelSource) -> LoraSpec:
    """Known before any weight is read. Raises BadInput for a layer or block that the model lacks."""
    chosen = options.lora
    choice = LayerChoice(
        layers=chosen.layers,
        blocks=chosen.blocks,
        conv_rank=chosen.conv_dim,
        conv_alpha=chosen.conv_alpha if chosen.conv_dim else None,
        ranks=chosen.ranks,
        alphas=chosen.alphas,
    )
    return LoraSpec(
        rank=chosen.rank,
        alpha=chosen.alpha,
        dropout=chosen.lora_dropout,
        dora=chosen.use_dora,
        sizes=family.adapter_sizes(source, choice, rank=chosen.rank, alpha=chosen.lora_alpha),
    )
