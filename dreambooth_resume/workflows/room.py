"""How much a run will write: is there room for it, and how often is it saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.plan import Plan
from dreambooth_resume.errors import BadInput
from dreambooth_resume.workflows.class_pictures import class_picture_bytes
from dreambooth_resume.workflows.home import Home

if TYPE_CHECKING:
    from dreambooth_resume.workflows.preflight import Inputs

# The LoRA file is four bytes a parameter, and holds the float32 masters themselves, so they are not stored again. Each
# of AdamW's two moments is four bytes, too, and each of prodigy's two and of the two that it compares; 8-bit moments
# are one byte, and four for each block of 256. Lion has one moment, Adafactor next to none. What schedule-free AdamW
# exports is computed, so the masters are stored beside it, and a second set of weights and one moment. With an average
# of the weights the LoRA file is the average, and the masters are stored beside it.
CHECKPOINT_BYTES_PER_PARAMETER = {
    "AdamW": 12,
    "AdamW8bit": 7,
    "prodigy": 20,
    "Lion": 8,
    "Adafactor": 6,
    "AdamWScheduleFree": 16,
}
EMA_BYTES_PER_PARAMETER = 4
_SPARE_BYTES = 64 * 2**20
DEFAULT_INTERVAL_STEPS = 500
DEFAULT_INTERVAL_SECONDS = 60.0


def save_interval(options: TrainOptions) -> tuple[int | None, float | None]:
    """Steps and seconds between two saves, whichever comes first; None: not by that.

    Neither given: 500 steps, as in Diffusers' script, or 60 s, so that a kill costs a minute and not an hour.
    """
    steps, seconds = options.checkpoints.checkpointing_steps, options.checkpoints.checkpointing_seconds
    if steps is None and seconds is None:
        return DEFAULT_INTERVAL_STEPS, DEFAULT_INTERVAL_SECONDS
    return steps, seconds


def checkpoints_at_once(options: TrainOptions, plan: Plan, *, max_train_steps: int) -> int:
    """The most checkpoints that a run without interruptions holds at one moment, saves by seconds left aside.

    Those are at most one a step, which nobody can foretell, so no more than a limit's worth is asked for.
    """
    chosen = options.checkpoints
    steps, _ = save_interval(options)
    saves = -(-max_train_steps // steps) if steps else 1
    if (epochs := chosen.save_every_n_epochs) is not None:
        saves = min(max_train_steps, saves + plan.epoch_of(max_train_steps) // epochs)
    if (limit := chosen.checkpoints_total_limit) is None:
        return saves
    kept_for_good = max_train_steps // chosen.keep_every if chosen.keep_every else 0
    # The old checkpoint goes only when the new one is durable, so there is one more than the limit for a moment.
    return min(saves, limit + 1 + kept_for_good + (1 if chosen.keep_best else 0))


def check_room(home: Home, options: TrainOptions, inputs: Inputs, plan: Plan, *, max_train_steps: int) -> None:
    """Raises BadInput if the home's disk has less room than the run will fill."""
    free = home.storage.free_bytes()
    if free is None:
        return
    parameters = inputs.family.adapter_parameters(
        inputs.source, inputs.lora, text_encoders=options.lora.train_text_encoder
    )
    each = CHECKPOINT_BYTES_PER_PARAMETER[options.optimization.optimizer_kind]
    checkpoint = parameters * (each + (EMA_BYTES_PER_PARAMETER if options.ema.use_ema else 0))
    at_once = checkpoints_at_once(options, plan, max_train_steps=max_train_steps)
    already = len(home.log.last.state.live) if home.log.last else 0
    pictures = sum(one.size_bytes for _, one in inputs.to_store) if options.data.store_inputs else 0
    pictures += class_picture_bytes(home, inputs.class_pictures, side=inputs.facts.picture_side)
    needed = max(0, at_once - already) * checkpoint + pictures + _SPARE_BYTES
    fewer = ", or keep fewer: --checkpoints_total_limit 2" if at_once > 3 else ""
    if free < needed:
        count = f"{at_once} checkpoint{'s' if at_once > 1 else ''} of {_megabytes(checkpoint)}"
        raise BadInput(
            f"{_megabytes(needed)} will be needed ({count}, pictures, log), and {_megabytes(free)} are free",
            where=home.place.flag,
            fix=f"make room, or name another folder{fewer}",
        )


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
