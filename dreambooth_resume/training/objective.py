"""What is minimised: the mean squared error of the predicted noise (or velocity), as in Diffusers' SDXL script.

Everything is float32, in bf16 training too: that script then rounds latents, noise and alphas to bf16 before mixing
them.

Letters: B batch, C channels, H and W latent height and width, T train timesteps.
"""

from __future__ import annotations

import torch
from torch.nn.functional import mse_loss

from dreambooth_resume.models.base import LatentScale, NoiseSchedule

_MIN_LOGVAR, _MAX_LOGVAR = -30.0, 20.0


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


def denoising_loss(prediction_BCHW: torch.Tensor, target_BCHW: torch.Tensor) -> torch.Tensor:
    """Mean squared error over everything, a float32 scalar."""
    return mse_loss(prediction_BCHW.float(), target_BCHW.float(), reduction="mean")


def _amounts(timesteps_B: torch.Tensor, schedule: NoiseSchedule) -> tuple[torch.Tensor, torch.Tensor]:
    alphas_B111 = schedule.alphas_cumprod_T[timesteps_B].view(-1, 1, 1, 1)
    return alphas_B111**0.5, (1.0 - alphas_B111) ** 0.5


def _per_channel(numbers: tuple[float, ...], *, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(numbers, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
