"""What is minimised: the mean squared error of the predicted noise (or velocity, or picture), as in Diffusers' script.

Everything is float32, in bf16 training too: that script then rounds latents, noise and alphas to bf16 before mixing
them.

Letters: B batch, C channels, H and W latent height and width, T train timesteps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import l1_loss, mse_loss

from dreambooth_resume.config.options.loss import HuberSchedule, LossOptions, LossType
from dreambooth_resume.models.base import EdmSchedule, LatentScale, NoiseSchedule, PredictionType

_MOST_SNR_OF_DEBIASED = 1000.0
_MIN_LOGVAR, _MAX_LOGVAR = -30.0, 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Which loss; the defaults make the plain one. `edm_style` has weights of its own and goes without the others."""

    edm_style: bool = False
    snr_gamma: float | None = None
    debiased: bool = False
    loss_type: LossType = "l2"
    huber_c: float = 0.1
    huber_schedule: HuberSchedule = "snr"
    unmasked_weight: float = 1.0
    """How much what lies outside a picture's mask counts beside what lies inside."""


def objective_of(loss: LossOptions, *, is_edm: bool) -> Objective:
    """What the options of a run ask for; `is_edm`: the base model is made for that formulation."""
    return Objective(
        edm_style=loss.do_edm_style_training or is_edm,
        snr_gamma=loss.snr_gamma,
        debiased=loss.debiased_estimation_loss,
        loss_type=loss.loss_type,
        huber_c=loss.huber_c,
        huber_schedule=loss.huber_schedule,
        unmasked_weight=loss.unmasked_weight,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How an error counts. `huber_c_B` float32 [batch]: where errors begin to count as large; None: nowhere."""

    loss_type: LossType = "l2"
    huber_c_B: torch.Tensor | None = None

    def of(self, part: slice) -> Measure:
        """The measure of these samples."""
        return self if self.huber_c_B is None else replace(self, huber_c_B=self.huber_c_B[part])


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the denoiser is asked: `inputs_BCHW` at `conditions_B`; `noisy_BCHW` is the picture with the noise."""

    noisy_BCHW: torch.Tensor
    inputs_BCHW: torch.Tensor
    conditions_B: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Prediction and target, and what each sample's error counts; None: all the same.

    A class picture's error counts `class_weights_B`: min-SNR is for the instance pictures alone, as in Diffusers' newer
    DreamBooth scripts. (The SDXL one multiplies the errors of half a batch with the weights of a whole one, and fails.)
    The debiased weights are for all, as in kohya's sd-scripts.
    """

    prediction_BCHW: torch.Tensor
    target_BCHW: torch.Tensor
    weights_B: torch.Tensor | None
    class_weights_B: torch.Tensor | None
    measure: Measure


_PLAIN = Measure()


def question(
    objective: Objective,
    latents_BCHW: torch.Tensor,
    noise_BCHW: torch.Tensor,
    timesteps_B: torch.Tensor,
    *,
    schedule: NoiseSchedule,
) -> Question:
    """The latents with noise, and as the denoiser takes them. timesteps_B: int64, rows of the schedule's tables."""
    if not objective.edm_style:
        noisy_BCHW = add_noise(latents_BCHW, noise_BCHW, timesteps_B, schedule=schedule)
        return Question(noisy_BCHW=noisy_BCHW, inputs_BCHW=noisy_BCHW, conditions_B=timesteps_B)
    noisy_BCHW = latents_BCHW + noise_BCHW * _sigmas(timesteps_B, schedule.edm)
    return Question(
        noisy_BCHW=noisy_BCHW,
        inputs_BCHW=edm_inputs(noisy_BCHW, timesteps_B, schedule=schedule.edm),
        conditions_B=schedule.edm.conditions_T[timesteps_B],
    )


def scored(
    objective: Objective,
    prediction_BCHW: torch.Tensor,
    asked: Question,
    *,
    latents_BCHW: torch.Tensor,
    noise_BCHW: torch.Tensor,
    timesteps_B: torch.Tensor,
    schedule: NoiseSchedule,
) -> Scored:
    """The denoiser's answer beside what it should have been."""
    if objective.edm_style:
        edm = schedule.edm
        # Not for EDM models, as in the script: there the weights lead to numerical trouble.
        weights_B = edm.sigmas_T[timesteps_B] ** -2.0 if edm.sigma_data is None else None
        return Scored(
            prediction_BCHW=edm_outputs(
                prediction_BCHW,
                asked.noisy_BCHW,
                timesteps_B,
                schedule=edm,
                prediction_type=schedule.prediction_type,
            ),
            target_BCHW=latents_BCHW,
            weights_B=weights_B,
            class_weights_B=weights_B,
            measure=Measure(),
        )
    gamma = objective.snr_gamma
    debiased_B = debiased_weights(timesteps_B, schedule=schedule) if objective.debiased else None
    return Scored(
        prediction_BCHW=prediction_BCHW,
        target_BCHW=prediction_target(latents_BCHW, noise_BCHW, timesteps_B, schedule=schedule),
        weights_B=debiased_B if gamma is None else min_snr_weights(timesteps_B, schedule=schedule, gamma=gamma),
        class_weights_B=debiased_B,
        measure=_measure(objective, timesteps_B, schedule=schedule),
    )


def sample_latents(
    mean_BCHW: torch.Tensor, logvar_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, *, scale: LatentScale
) -> torch.Tensor:
    """Draw from the VAE's distribution with the given normal noise, and scale to what the denoiser is trained on.

    (mean + exp(logvar / 2) * noise) * scaling_factor, with the log-variance held to -30..20 as AutoencoderKL does.
    Where the VAE states mean and std of its latents: (latents - mean) * scaling_factor / std, as Diffusers' script.
    """
    std_BCHW = torch.exp(0.5 * torch.clamp(logvar_BCHW, _MIN_LOGVAR, _MAX_LOGVAR))
    latents_BCHW = mean_BCHW + std_BCHW * noise_BCHW
    if scale.mean is not None:
        latents_BCHW = latents_BCHW - _per_channel(scale.mean, like=latents_BCHW)
    latents_BCHW = latents_BCHW * scale.scaling_factor
    if scale.std is not None:
        latents_BCHW = latents_BCHW / _per_channel(scale.std, like=latents_BCHW)
    return latents_BCHW


def add_noise(
    latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor, *, schedule: NoiseSchedule
) -> torch.Tensor:
    """sqrt(a) * latents + sqrt(1 - a) * noise with a = alphas_cumprod[timestep]. Source: DDPMScheduler.add_noise."""
    signal_B111, noise_B111 = _amounts(timesteps_B, schedule)
    return signal_B111 * latents_BCHW + noise_B111 * noise_BCHW


def prediction_target(
    latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor, *, schedule: NoiseSchedule
) -> torch.Tensor:
    """What the denoiser should say: the noise (epsilon), or sqrt(a) * noise - sqrt(1 - a) * latents (v_prediction).

    Source: DDPMScheduler.get_velocity; Salimans and Ho 2022, arXiv:2202.00512.
    """
    if schedule.prediction_type == "epsilon":
        return noise_BCHW
    signal_B111, noise_B111 = _amounts(timesteps_B, schedule)
    return signal_B111 * noise_BCHW - noise_B111 * latents_BCHW


def min_snr_weights(timesteps_B: torch.Tensor, *, schedule: NoiseSchedule, gamma: float) -> torch.Tensor:
    """min(SNR, gamma) / SNR for each sample, plus 1 for v-prediction as in Diffusers' SDXL script; float32 [batch].

    SNR is a / (1 - a) with a = alphas_cumprod[timestep]. Where it is 0 (zero terminal SNR) the quotient is its limit 1.
    Source: Hang et al. 2023, arXiv:2303.09556; diffusers.training_utils.compute_snr.
    """
    snr_B = _snr(timesteps_B, schedule)
    weights_B = torch.where(snr_B > gamma, gamma / snr_B, 1.0)
    return weights_B + 1 if schedule.prediction_type == "v_prediction" else weights_B


def debiased_weights(timesteps_B: torch.Tensor, *, schedule: NoiseSchedule) -> torch.Tensor:
    """1 / sqrt(SNR) for each sample, 1 / (SNR + 1) for v-prediction, with an SNR of at most 1000; float32 [batch].

    Infinite for epsilon prediction of pure noise, which no such model is trained on (zero terminal SNR needs
    v-prediction). Source: Yu et al. 2023, arXiv:2310.08442; kohya's sd-scripts.
    """
    snr_B = _snr(timesteps_B, schedule).clamp(max=_MOST_SNR_OF_DEBIASED)
    return 1.0 / (snr_B + 1.0) if schedule.prediction_type == "v_prediction" else snr_B**-0.5


def huber_sizes(
    timesteps_B: torch.Tensor, *, schedule: NoiseSchedule, huber_c: float, huber_schedule: HuberSchedule
) -> torch.Tensor:
    """From which size on errors count as large, for each sample; float32 [batch].

    constant: huber_c. exponential: huber_c^(t / T), from 1 at t = 0 down to nearly huber_c. snr: huber_c +
    (1 - huber_c) / (1 + sigma)^2 with sigma = sqrt((1 - a) / a). Source: Khrapov et al. 2024, arXiv:2403.16728.
    """
    if huber_schedule == "constant":
        return torch.full(timesteps_B.shape, huber_c, dtype=torch.float32, device=timesteps_B.device)
    if huber_schedule == "exponential":
        return torch.exp(math.log(huber_c) / len(schedule.alphas_cumprod_T) * timesteps_B.float())
    alphas_B = schedule.alphas_cumprod_T[timesteps_B]
    sigmas_B = ((1.0 - alphas_B) / alphas_B) ** 0.5
    return (1.0 - huber_c) / (1.0 + sigmas_B) ** 2 + huber_c


def edm_inputs(noisy_BCHW: torch.Tensor, timesteps_B: torch.Tensor, *, schedule: EdmSchedule) -> torch.Tensor:
    """noisy / sqrt(sigma^2 + sigma_data^2), with 1 for sigma_data of a model that was made with alphas."""
    sigmas_B111 = _sigmas(timesteps_B, schedule)
    if schedule.sigma_data is None:
        return noisy_BCHW / ((sigmas_B111**2 + 1) ** 0.5)
    return noisy_BCHW * (1 / ((sigmas_B111**2 + schedule.sigma_data**2) ** 0.5))


def edm_outputs(
    prediction_BCHW: torch.Tensor,
    noisy_BCHW: torch.Tensor,
    timesteps_B: torch.Tensor,
    *,
    schedule: EdmSchedule,
    prediction_type: PredictionType,
) -> torch.Tensor:
    """The picture without noise that the prediction amounts to: c_skip * noisy + c_out * prediction.

    Source: Diffusers' script and EDMEulerScheduler.precondition_outputs; Karras et al. 2022, section 5.
    """
    sigmas_B111 = _sigmas(timesteps_B, schedule)
    is_epsilon = prediction_type == "epsilon"
    if schedule.sigma_data is None:
        if is_epsilon:
            return prediction_BCHW * (-sigmas_B111) + noisy_BCHW
        return prediction_BCHW * (-sigmas_B111 / (sigmas_B111**2 + 1) ** 0.5) + noisy_BCHW / (sigmas_B111**2 + 1)
    data = schedule.sigma_data
    skip = data**2 / (sigmas_B111**2 + data**2)
    out = sigmas_B111 * data / (sigmas_B111**2 + data**2) ** 0.5
    return skip * noisy_BCHW + (out if is_epsilon else -out) * prediction_BCHW


def denoising_loss(
    prediction_BCHW: torch.Tensor,
    target_BCHW: torch.Tensor,
    weights_B: torch.Tensor | None = None,
    *,
    measure: Measure = _PLAIN,
    regions_B1HW: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean error over everything, each sample's times its weight; a float32 scalar. Plain: squared errors.

    With `regions_B1HW` (from `region_weights`) the error of a sample is the mean over its elements, each times that.
    """
    if weights_B is None and measure.loss_type == "l2" and regions_B1HW is None:
        return mse_loss(prediction_BCHW.float(), target_BCHW.float(), reduction="mean")
    errors_BCHW = _errors(prediction_BCHW.float(), target_BCHW.float(), measure)
    if regions_B1HW is not None:
        errors_BCHW = errors_BCHW * regions_B1HW
    errors_B = errors_BCHW.mean(dim=(1, 2, 3))
    return errors_B.mean() if weights_B is None else (errors_B * weights_B).mean()


def region_weights(mask_BHW: torch.Tensor, *, unmasked_weight: float) -> torch.Tensor:
    """How much each place counts: max(mask, unmasked_weight), over the sample's mean of that; float32 [batch, 1, h, w].

    So a sample with a small mask weighs as much as one without, and a mask that is white everywhere changes nothing. A
    crop that shows nothing of the mask, with unmasked_weight 0, counts nothing. Source: OneTrainer's masked losses with
    their normalisation by the masked area.
    """
    weights_B1HW = mask_BHW.unsqueeze(1).clamp(min=unmasked_weight)
    means_B111 = weights_B1HW.mean(dim=(1, 2, 3), keepdim=True)
    return weights_B1HW / means_B111.clamp(min=torch.finfo(torch.float32).tiny)


def _errors(prediction_BCHW: torch.Tensor, target_BCHW: torch.Tensor, measure: Measure) -> torch.Tensor:
    """huber: 2c (sqrt(d^2 + c^2) - c), which is d^2 for small d; smooth_l1: 2 (sqrt(d^2 + c^2) - c), 2|d| for large.

    Source: kohya's sd-scripts (these are pseudo-Huber losses, and not torch's functions of these names).
    """
    if measure.loss_type == "l2":
        return mse_loss(prediction_BCHW, target_BCHW, reduction="none")
    if measure.loss_type == "l1":
        return l1_loss(prediction_BCHW, target_BCHW, reduction="none")
    assert measure.huber_c_B is not None
    c_B111 = measure.huber_c_B.view(-1, 1, 1, 1)
    smooth_BCHW = 2.0 * (((prediction_BCHW - target_BCHW) ** 2 + c_B111**2).sqrt() - c_B111)
    return c_B111 * smooth_BCHW if measure.loss_type == "huber" else smooth_BCHW


def _measure(objective: Objective, timesteps_B: torch.Tensor, *, schedule: NoiseSchedule) -> Measure:
    if objective.loss_type not in ("huber", "smooth_l1"):
        return Measure(loss_type=objective.loss_type)
    sizes_B = huber_sizes(
        timesteps_B, schedule=schedule, huber_c=objective.huber_c, huber_schedule=objective.huber_schedule
    )
    return Measure(loss_type=objective.loss_type, huber_c_B=sizes_B)


def _snr(timesteps_B: torch.Tensor, schedule: NoiseSchedule) -> torch.Tensor:
    """SNR = a / (1 - a) of each sample, computed as Diffusers does."""
    alphas_B = schedule.alphas_cumprod_T[timesteps_B]
    return (alphas_B**0.5 / (1.0 - alphas_B) ** 0.5) ** 2


def _amounts(timesteps_B: torch.Tensor, schedule: NoiseSchedule) -> tuple[torch.Tensor, torch.Tensor]:
    alphas_B111 = schedule.alphas_cumprod_T[timesteps_B].view(-1, 1, 1, 1)
    return alphas_B111**0.5, (1.0 - alphas_B111) ** 0.5


def _sigmas(timesteps_B: torch.Tensor, schedule: EdmSchedule) -> torch.Tensor:
    return schedule.sigmas_T[timesteps_B].view(-1, 1, 1, 1)


def _per_channel(numbers: tuple[float, ...], *, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(numbers, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
