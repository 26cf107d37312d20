"""What is minimised: the mean squared error of the predicted noise (or velocity, or picture), as in Diffusers' script.

Everything is float32, in bf16 training too: that script then rounds latents, noise and alphas to bf16 before mixing
them.

Letters: B batch, C channels, H and W latent height and width, T train timesteps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import mse_loss

from dreambooth_resume.models.base import EdmSchedule, LatentScale, NoiseSchedule, PredictionType

_MIN_LOGVAR, _MAX_LOGVAR = -30.0, 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Which loss; the defaults make the plain one. `edm_style` has weights of its own and goes without `snr_gamma`."""

    edm_style: bool = False
    snr_gamma: float | None = None


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
    """

    prediction_BCHW: torch.Tensor
    target_BCHW: torch.Tensor
    weights_B: torch.Tensor | None
    class_weights_B: torch.Tensor | None


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
        )
    gamma = objective.snr_gamma
    return Scored(
        prediction_BCHW=prediction_BCHW,
        target_BCHW=prediction_target(latents_BCHW, noise_BCHW, timesteps_B, schedule=schedule),
        weights_B=None if gamma is None else min_snr_weights(timesteps_B, schedule=schedule, gamma=gamma),
        class_weights_B=None,
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
    alphas_B = schedule.alphas_cumprod_T[timesteps_B]
    snr_B = (alphas_B**0.5 / (1.0 - alphas_B) ** 0.5) ** 2
    weights_B = torch.where(snr_B > gamma, gamma / snr_B, 1.0)
    return weights_B + 1 if schedule.prediction_type == "v_prediction" else weights_B


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
    prediction_BCHW: torch.Tensor, target_BCHW: torch.Tensor, weights_B: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error over everything, each sample's times its weight; a float32 scalar."""
    if weights_B is None:
        return mse_loss(prediction_BCHW.float(), target_BCHW.float(), reduction="mean")
    squares_BCHW = mse_loss(prediction_BCHW.float(), target_BCHW.float(), reduction="none")
    return (squares_BCHW.mean(dim=(1, 2, 3)) * weights_B).mean()


def _amounts(timesteps_B: torch.Tensor, schedule: NoiseSchedule) -> tuple[torch.Tensor, torch.Tensor]:
    alphas_B111 = schedule.alphas_cumprod_T[timesteps_B].view(-1, 1, 1, 1)
    return alphas_B111**0.5, (1.0 - alphas_B111) ** 0.5


def _sigmas(timesteps_B: torch.Tensor, schedule: EdmSchedule) -> torch.Tensor:
    return schedule.sigmas_T[timesteps_B].view(-1, 1, 1, 1)


def _per_channel(numbers: tuple[float, ...], *, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(numbers, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
