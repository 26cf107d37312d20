"""Options: what is minimised, and at which noise levels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from dreambooth_resume.config.options.declaration import FINITE, SECTION_CONFIG, any_case, applied, never, refused

LossType = Literal["l2", "l1", "huber", "smooth_l1"]
HuberSchedule = Literal["snr", "exponential", "constant"]
WeightingScheme = Literal["none", "logit_normal", "mode"]
BiasStrategy = Literal["none", "earlier", "later", "range"]

_LOSS = "all steps of a run minimise one loss; start a new run"
_MASKS = "a run keeps its masks, or trains without; start a new run"
_DRAWS = "all steps of a run draw their noise in one way; start a new run"


class LossOptions(BaseModel):
    """The loss, the noise, and the noise levels (timesteps) that are trained."""

    model_config = SECTION_CONFIG

    loss_type: Annotated[LossType, any_case("l2", "l1", "huber", "smooth_l1"), refused(_LOSS)] = "l2"
    """How an error counts: l2 by its square, l1 by its size. huber and smooth_l1 are l2 for small errors and l1 for
    large ones, against pictures that don't fit the others; they differ by a factor. As kohya has them."""

    huber_c: Annotated[float, FINITE, Field(gt=0, le=1), refused(_LOSS)] = 0.1
    """The size at which an error begins to count as large, for loss_type huber and smooth_l1: at full noise, with
    huber_schedule constant at every noise level."""

    huber_schedule: Annotated[HuberSchedule, any_case("snr", "exponential", "constant"), refused(_LOSS)] = "snr"
    """How huber_c depends on the noise level. snr and exponential: it rises to 1 for clear pictures, by the
    signal-to-noise ratio or by the timestep."""

    snr_gamma: Annotated[float | None, FINITE, Field(gt=0), refused(_LOSS)] = None
    """Min-SNR: noise levels at which the picture shows more than this (5.0 is usual) count less in the loss. null: all
    count the same. Class pictures of prior preservation are not weighted."""

    debiased_estimation_loss: Annotated[bool, refused(_LOSS)] = False
    """Weight the loss by 1 / sqrt(signal-to-noise ratio): noisy pictures count more, clear ones less. Class pictures
    are weighted, too, as kohya does. Not with snr_gamma."""

    masked_training: Annotated[bool | None, never(_MASKS, null_is_unset=True)] = None
    """Train what a mask marks: NAME-mask.png beside NAME.jpg, white on black, or else the picture's own transparency. A
    picture with neither is trained whole. Masks are copied into the run's home. Off (null is off): a mask's file is
    passed over."""

    unmasked_weight: Annotated[
        float, FINITE, Field(ge=0, le=1), applied("what lies outside the masks counts so much from the next step on")
    ] = 0.1
    """With masked_training, how much the loss outside a mask counts beside the loss inside. A picture's weights are
    divided by their mean, so a small mask weighs as much as a large one."""

    do_edm_style_training: Annotated[bool, refused(_LOSS)] = False
    """Train in the EDM formulation: the denoised picture is compared, weighted by its noise level. Not with snr_gamma.
    A model whose scheduler is an EDM one is trained so in any case."""

    noise_offset: Annotated[float, FINITE, Field(ge=0, le=1), refused(_DRAWS)] = 0.0
    """Shift the noise of each channel as a whole by a random number of this size (0.05 to 0.1 is usual), so that very
    dark and very bright pictures can be learned."""

    input_perturbation: Annotated[float, FINITE, Field(ge=0, le=1), refused(_DRAWS)] = 0.0
    """Add this much more noise to what the model is shown than it is asked for (0.1 is usual), against overfitting."""

    min_timestep: Annotated[int, Field(ge=0), refused(_DRAWS)] = 0
    """Train no noise level below this timestep; 0 is the clearest."""

    max_timestep: Annotated[int | None, Field(ge=1), refused(_DRAWS)] = None
    """Train only noise levels below this timestep. null: up to full noise (1000 in SDXL)."""

    weighting_scheme: Annotated[WeightingScheme, any_case("none", "logit_normal", "mode"), refused(_DRAWS)] = "none"
    """Which noise levels come how often: none draws all alike, logit_normal and mode draw medium ones more often."""

    logit_mean: Annotated[float, FINITE, Field(ge=-10, le=10), refused(_DRAWS)] = 0.0
    """Centre of weighting_scheme logit_normal: the timestep is sigmoid(logit_mean + logit_std x normal) of the way to
    full noise. 0: the middle; more: noisier."""

    logit_std: Annotated[float, FINITE, Field(gt=0, le=10), refused(_DRAWS)] = 1.0
    """Width of weighting_scheme logit_normal."""

    mode_scale: Annotated[float, FINITE, Field(ge=-1, le=1.75), refused(_DRAWS)] = 1.29
    """How strongly weighting_scheme mode prefers medium noise levels; below 0 it avoids them."""

    timestep_bias_strategy: Annotated[BiasStrategy, any_case("none", "earlier", "later", "range"), refused(_DRAWS)] = (
        "none"
    )
    """Draw some noise levels more often: earlier the clear ones, later the noisy ones, range those from
    timestep_bias_begin up to timestep_bias_end. As in Diffusers' SDXL text-to-image script."""

    timestep_bias_multiplier: Annotated[float, FINITE, Field(gt=0, le=1000), refused(_DRAWS)] = 1.0
    """How many times as often timestep_bias_strategy draws them; below 1: less often."""

    timestep_bias_portion: Annotated[float, FINITE, Field(gt=0, le=1), refused(_DRAWS)] = 0.25
    """Which part of all timesteps is meant by timestep_bias_strategy earlier and later."""

    timestep_bias_begin: Annotated[int, Field(ge=0), refused(_DRAWS)] = 0
    """First timestep of timestep_bias_strategy range."""

    timestep_bias_end: Annotated[int, Field(ge=1), refused(_DRAWS)] = 1000
    """The timestep before which timestep_bias_strategy range ends."""

    def biased_timesteps(self, train_timesteps: int) -> tuple[int, int] | None:
        """From where up to below where timestep_bias_strategy counts, of so many timesteps; None without one."""
        count = int(self.timestep_bias_portion * train_timesteps)
        ranges = {
            "earlier": (0, count),
            "later": (train_timesteps - count, train_timesteps),
            "range": (self.timestep_bias_begin, self.timestep_bias_end),
        }
        return ranges.get(self.timestep_bias_strategy)

    @property
    def is_huber(self) -> bool:
        """Does the loss have a size from which errors count as large?"""
        return self.loss_type in ("huber", "smooth_l1")
