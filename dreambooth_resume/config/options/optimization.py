"""Options: the optimizer and its learning rate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from dreambooth_resume.config.options.declaration import FINITE, SECTION_CONFIG, any_case, applied, never, refused

OptimizerName = Literal["AdamW", "prodigy", "Lion", "Adafactor", "AdamWScheduleFree"]
OptimizerKind = Literal["AdamW", "AdamW8bit", "prodigy", "Lion", "Adafactor", "AdamWScheduleFree"]
SchedulerName = Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]

_SHAPE = "the schedule keeps its shape for the whole run; change learning_rate, or start a new run"
_MOMENTS = "the optimizer's moments were gathered with the run's value; start a new run"


class OptimizationOptions(BaseModel):
    """The optimizer, its learning rate, and the rate's schedule."""

    model_config = SECTION_CONFIG

    optimizer: Annotated[
        OptimizerName,
        any_case("AdamW", "prodigy", "Lion", "Adafactor", "AdamWScheduleFree"),
        never("its state would not fit another one; start a new run"),
    ] = "AdamW"
    """The optimizer; each resumes exactly. AdamW runs fused, in one kernel. prodigy (pip install prodigyopt) finds the
    size of its steps itself: give it --learning_rate 1. Lion (pip install lion-pytorch) wants a rate of a third to a
    tenth of AdamW's, and has half its state. Adafactor keeps next to no state. AdamWScheduleFree (pip install
    schedulefree) trains an average of the weights in place of a falling rate; the average is the result. The last three
    were run on a CPU; not run on a GPU."""

    use_8bit_adam: Annotated[bool, never("its state would not fit another optimizer; start a new run")] = False
    """AdamW with moments of 8 bits (pip install bitsandbytes): 2 bytes a weight instead of 8. Matrices of less than
    4,096 numbers keep theirs in float32. Tested on a CPU; not run on a GPU."""

    learning_rate: Annotated[
        float,
        FINITE,
        Field(gt=0, le=10),
        applied("the schedule is computed from the new rate from the next step on", common=True),
    ] = 1e-4
    """Learning rate after the warm-up. For prodigy about 1; for all others at most 1."""

    text_encoder_lr: Annotated[
        float,
        FINITE,
        Field(gt=0, le=1),
        applied("the text encoders' schedule is computed from the new rate from the next step on"),
    ] = 5e-6
    """Learning rate of the text encoders' LoRA, or of their new tokens, after the warm-up. scale_lr leaves it as it is;
    prodigy takes learning_rate for all."""

    text_encoder_2_lr: Annotated[
        float | None,
        FINITE,
        Field(gt=0, le=1),
        applied("the second text encoder's schedule is computed from the new rate from the next step on"),
    ] = None
    """Learning rate of the second, larger text encoder. null: text_encoder_lr holds for both."""

    loraplus_lr_ratio: Annotated[
        float | None,
        FINITE,
        Field(gt=0, le=1000),
        never("the rates are grouped from the first step on; start a new run"),
    ] = None
    """LoRA+: the matrices B, which start at zero, learn this many times as fast as the matrices A (16 is usual), in all
    parts. null: all learn alike. Not with prodigy."""

    scale_lr: Annotated[bool, refused("change learning_rate itself")] = False
    """Multiply learning_rate by train_batch_size, gradient_accumulation_steps and the number of processes."""

    lr_scheduler: Annotated[
        SchedulerName,
        any_case("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"),
        refused(_SHAPE, common=True),
    ] = "constant"
    """How the learning rate changes over the run. constant has no warm-up."""

    lr_warmup_steps: Annotated[int, Field(ge=0), refused(_SHAPE)] = 500
    """Steps in which the learning rate rises from 0; no effect with constant."""

    lr_warmup_ratio: Annotated[float | None, FINITE, Field(ge=0, lt=1), refused(_SHAPE)] = None
    """The same as a part of the run: 0.1 is a tenth of its steps. null: lr_warmup_steps decides."""

    lr_num_cycles: Annotated[int, Field(ge=1), refused(_SHAPE)] = 1
    """Hard restarts of cosine_with_restarts."""

    lr_power: Annotated[float, FINITE, Field(gt=0), refused(_SHAPE)] = 1.0
    """Power of polynomial."""

    adam_beta1: Annotated[float, FINITE, Field(ge=0, lt=1), refused(_MOMENTS)] = 0.9
    """Decay rate of the mean of gradients, in all optimizers but Adafactor."""

    adam_beta2: Annotated[float, FINITE, Field(ge=0, lt=1), refused(_MOMENTS)] = 0.999
    """Decay rate of the mean of squared gradients, in all optimizers but Adafactor and Lion."""

    lion_beta2: Annotated[float, FINITE, Field(ge=0, lt=1), refused(_MOMENTS)] = 0.99
    """Lion's decay rate of its moment; adam_beta1 is how much of that goes into a step."""

    adam_weight_decay: Annotated[
        float, FINITE, Field(ge=0), applied("weights decay at the new rate from the next step on")
    ] = 1e-4
    """Weight decay of the LoRA's weights, but for those of the text encoders."""

    adam_weight_decay_text_encoder: Annotated[
        float, FINITE, Field(ge=0), applied("the text encoders' weights decay at the new rate from the next step on")
    ] = 1e-3
    """Weight decay of the text encoders' LoRA, or of their new tokens."""

    adam_epsilon: Annotated[
        float, FINITE, Field(gt=0), applied("updates are divided with the new value from the next step on")
    ] = 1e-8
    """Guard against a division by zero, in all optimizers but Adafactor and Lion."""

    prodigy_beta3: Annotated[float | None, FINITE, Field(ge=0, lt=1), refused(_MOMENTS)] = None
    """prodigy's decay rate of what it estimates its step size from. null: the square root of adam_beta2."""

    prodigy_decouple: Annotated[bool, refused(_MOMENTS)] = True
    """prodigy's weight decay is AdamW's, apart from the gradient. false: it is added to the gradient."""

    prodigy_use_bias_correction: Annotated[bool, refused(_MOMENTS)] = True
    """Adam's bias correction in prodigy."""

    prodigy_safeguard_warmup: Annotated[bool, refused(_MOMENTS)] = True
    """Keeps the learning rate out of prodigy's estimate, so that a warm-up does not mislead it."""

    max_grad_norm: Annotated[
        float, FINITE, Field(gt=0), applied("gradients are clipped to the new norm from the next step on")
    ] = 1.0
    """Gradients are scaled down to this norm when theirs is larger. 1e9 never clips."""

    @property
    def optimizer_kind(self) -> OptimizerKind:
        """`optimizer` and `use_8bit_adam` in one word. The latter has a meaning for AdamW alone, as in the script."""
        return "AdamW8bit" if self.optimizer == "AdamW" and self.use_8bit_adam else self.optimizer

    def warmup_steps(self, total_steps: int) -> int:
        """Steps of warm-up in a run of so many."""
        if self.lr_warmup_ratio is None:
            return self.lr_warmup_steps
        return min(round(self.lr_warmup_ratio * total_steps), total_steps - 1)
