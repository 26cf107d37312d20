"""Which parameters are updated at which learning rate."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from dreambooth_resume.config.options.tokens import pivot_step
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.training.optimizers.base import ParameterGroup
from dreambooth_resume.training.schedule import denoiser_rate, schedule_of

Parameters = Mapping[str, torch.nn.Parameter]


def parameter_groups(
    options: TrainOptions, parts: Mapping[str, Parameters], *, max_train_steps: int, processes: int = 1
) -> tuple[ParameterGroup, ...]:
    """The denoiser's first, whose rate is the one that is shown, then each text encoder's, as in Diffusers' script.

    `parts` are what Diffusers calls them, the denoiser's first. scale_lr leaves the text encoders' rates as they are,
    and prodigy has one rate for all, as there. The text encoders' groups have their pivot. With loraplus_lr_ratio each
    part's matrices B have a group of their own.
    """
    chosen = options.optimization
    denoiser, *text_encoders = parts
    pivot = pivot_step(options.text_part or 1.0, max_train_steps=max_train_steps)
    rates = {denoiser: denoiser_rate(options, processes=processes)} | dict.fromkeys(
        text_encoders, chosen.text_encoder_lr
    )
    if "text_encoder_2" in rates and chosen.text_encoder_2_lr is not None:
        rates["text_encoder_2"] = chosen.text_encoder_2_lr
    if chosen.optimizer == "prodigy":
        rates = dict.fromkeys(rates, rates[denoiser])
    groups: list[ParameterGroup] = []
    for part, parameters in parts.items():
        decay = chosen.adam_weight_decay if part == denoiser else chosen.adam_weight_decay_text_encoder
        for name, (members, rate) in _split(part, parameters, rates[part], chosen.loraplus_lr_ratio).items():
            schedule = schedule_of(options, rate, total_steps=max_train_steps)
            groups.append(
                ParameterGroup(
                    name=name,
                    parameters=members,
                    schedule=schedule,
                    weight_decay=decay,
                    pivot_step=None if part == denoiser else pivot,
                )
            )
    return tuple(groups)


def _split(part: str, parameters: Parameters, rate: float, ratio: float | None) -> dict[str, tuple[Parameters, float]]:
    """Group to its parameters and rate: one, or with a ratio a second one of the matrices B, that much faster.

    Source: Hayou et al. 2024, arXiv:2402.12354 (LoRA+).
    """
    faster = {name: parameter for name, parameter in parameters.items() if name.endswith(".lora_B.weight")}
    if ratio is None or not faster:
        return {part: (parameters, rate)}
    rest = {name: parameter for name, parameter in parameters.items() if name not in faster}
    return {part: (rest, rate), f"{part}_lora_B": (faster, rate * ratio)}
