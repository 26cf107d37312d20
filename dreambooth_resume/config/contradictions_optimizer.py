"""Optimizers, and what does not go with them."""

from __future__ import annotations

from collections.abc import Mapping

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.errors import BadInput

_SCHEDULE_FREE = "AdamWScheduleFree"
_WITHOUT_AN_END = ("constant", "constant_with_warmup")


def refuse_optimizer_contradictions(options: TrainOptions, sources: Mapping[str, str]) -> None:
    """Raises BadInput for rates and schedules that the optimizer can't have, and for two lengths of the warm-up."""
    chosen = options.optimization
    if chosen.optimizer != "prodigy" and chosen.learning_rate > 1:
        raise BadInput(
            f"{chosen.learning_rate:g} is too large for {chosen.optimizer}: it must be at most 1",
            where=sources.get("learning_rate"),
            fix="type --learning_rate 1e-4, or --optimizer prodigy",
        )
    if chosen.optimizer == "prodigy" and chosen.loraplus_lr_ratio is not None:
        raise BadInput(
            f"loraplus_lr_ratio {chosen.loraplus_lr_ratio:g} does not go with prodigy, which has one learning rate for "
            "all that is trained",
            where=sources.get("loraplus_lr_ratio", "loraplus_lr_ratio"),
            fix="leave out --loraplus_lr_ratio, or take another --optimizer",
        )
    if chosen.optimizer == _SCHEDULE_FREE and chosen.lr_scheduler not in _WITHOUT_AN_END:
        raise BadInput(
            f"lr_scheduler {chosen.lr_scheduler} does not go with {_SCHEDULE_FREE}: its average takes the place of a "
            "rate that falls",
            where=sources.get("lr_scheduler") or sources.get("optimizer"),
            fix="type --lr_scheduler constant_with_warmup",
        )
    if chosen.optimizer == _SCHEDULE_FREE and chosen.adam_beta1 == 0:
        raise BadInput(
            f"{_SCHEDULE_FREE} can't do with adam_beta1 0: between 0 and 1 it says where gradients are taken",
            where=sources.get("adam_beta1", "adam_beta1"),
            fix="leave it out: 0.9 is usual",
        )
    if chosen.optimizer == _SCHEDULE_FREE and options.ema.use_ema:
        raise BadInput(
            f"use_ema does not go with {_SCHEDULE_FREE}, whose result is an average already",
            where=sources.get("use_ema") or sources.get("optimizer"),
            fix="leave out --use_ema, or take another --optimizer",
        )
    if {"lr_warmup_steps", "lr_warmup_ratio"} <= sources.keys() and chosen.lr_warmup_ratio is not None:
        raise BadInput(
            f"lr_warmup_steps {chosen.lr_warmup_steps} and lr_warmup_ratio {chosen.lr_warmup_ratio:g} are two lengths "
            "of one warm-up",
            where=sources["lr_warmup_ratio"],
            fix="leave out one of the two",
        )


def without_effect_on_the_optimizer(options: TrainOptions) -> dict[str, str]:
    """Option to the reason why it has no effect."""
    chosen, trains_text = options.optimization, options.text_part is not None
    idle: dict[str, str] = {}
    if chosen.optimizer == "prodigy":
        idle |= dict.fromkeys(
            ("text_encoder_lr", "text_encoder_2_lr"), "prodigy has one learning rate for all that is trained"
        )
    else:
        idle |= {name: "only optimizer prodigy has it" for name in OPTIONS if name.startswith("prodigy_")}
    if not trains_text:
        text = ("text_encoder_lr", "text_encoder_2_lr", "adam_weight_decay_text_encoder")
        idle |= dict.fromkeys(
            text, "the text encoders are trained with train_text_encoder or train_text_encoder_ti alone"
        )
    if chosen.optimizer != "AdamW":
        idle["use_8bit_adam"] = "only optimizer AdamW has an 8-bit form"
    if chosen.optimizer != "Lion":
        idle["lion_beta2"] = "only optimizer Lion has it"
    if chosen.optimizer in ("Lion", "Adafactor"):
        idle |= dict.fromkeys(("adam_beta2", "adam_epsilon"), f"optimizer {chosen.optimizer} has none")
    if chosen.optimizer == "Adafactor":
        idle["adam_beta1"] = "optimizer Adafactor has none"
    if not options.ema.use_ema:
        idle["ema_decay"] = "use_ema is off"
    if chosen.lr_scheduler == "constant":
        warmups = ("lr_warmup_steps", "lr_warmup_ratio")
        idle |= dict.fromkeys(warmups, "lr_scheduler constant has no warm-up; constant_with_warmup has")
    elif chosen.lr_warmup_ratio is not None:
        idle["lr_warmup_steps"] = f"lr_warmup_ratio {chosen.lr_warmup_ratio:g} wins"
    if chosen.lr_scheduler != "cosine_with_restarts":
        idle["lr_num_cycles"] = "only lr_scheduler cosine_with_restarts has cycles"
    if chosen.lr_scheduler != "polynomial":
        idle["lr_power"] = "only lr_scheduler polynomial has a power"
    return idle
