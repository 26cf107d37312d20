"""What does not go with another kind of adapter than a LoRA."""

from __future__ import annotations

from collections.abc import Mapping

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.errors import BadInput


def refuse_beside_another_kind(options: TrainOptions, sources: Mapping[str, str]) -> None:
    """Raises BadInput for an option that a LoHa or LoKr can't follow."""
    kind = options.lora.lora_type
    if kind == "lora":
        return
    precision = options.training.quantised_base
    reasons = {
        "use_dora": ("a DoRA is a LoRA", options.lora.use_dora),
        "lora_dropout": ("what it drops are the inputs of a LoRA's first matrix", options.lora.lora_dropout > 0),
        "train_text_encoder": (f"a {kind} is on the UNet alone", options.lora.train_text_encoder),
        "loraplus_lr_ratio": (
            "it is a rate for the second matrix of a LoRA",
            options.optimization.loraplus_lr_ratio is not None,
        ),
        "base_precision": (f"peft's {kind} needs the weights' own shapes", precision is not None),
        "resume_from_checkpoint": (
            "a checkpoint of Diffusers' script has a LoRA",
            options.checkpoints.seed_folder is not None,
        ),
    }
    for name, (reason, is_asked) in reasons.items():
        if is_asked:
            raise BadInput(
                f"{name} does not go with lora_type {kind}: {reason}",
                where=sources.get(name) or sources.get("lora_type"),
                fix=f"leave {name} out, or take --lora_type lora",
            )
