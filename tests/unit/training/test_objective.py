"""The objective against the formulas of Diffusers' own scheduler and VAE."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import compute_snr

from dreambooth_resume.models.base import EdmSchedule, LatentScale, NoiseSchedule, PredictionType
from dreambooth_resume.training.objective import (
    add_noise,
    denoising_loss,
    min_snr_weights,
    prediction_target,
    sample_latents,
)

TIMESTEPS_B = torch.tensor([0, 1, 500, 998, 999])


def scheduler_and_ours(prediction_type: PredictionType, **config: object) -> tuple[DDPMScheduler, NoiseSchedule]:
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        **config,
    )
    edm = EdmSchedule(sigmas_T=torch.empty(0), conditions_T=torch.empty(0))
    return scheduler, NoiseSchedule(prediction_type=prediction_type, alphas_cumprod_T=scheduler.alphas_cumprod, edm=edm)


def draws(seed: int, count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(5, 4, 6, 8, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("zero_snr", [False, True])
def test_add_noise_is_ddpm_schedulers(zero_snr: bool) -> None:
    scheduler, ours = scheduler_and_ours("epsilon", rescale_betas_zero_snr=zero_snr)
    latents, noise, _ = draws(0)
    assert torch.equal(
        add_noise(latents, noise, TIMESTEPS_B, schedule=ours), scheduler.add_noise(latents, noise, TIMESTEPS_B)
    )


def test_epsilon_target_is_the_noise() -> None:
    _, ours = scheduler_and_ours("epsilon")
    latents, noise, _ = draws(1)
    assert torch.equal(prediction_target(latents, noise, TIMESTEPS_B, schedule=ours), noise)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_v_prediction_target_is_ddpm_schedulers_velocity(zero_snr: bool) -> None:
    scheduler, ours = scheduler_and_ours("v_prediction", rescale_betas_zero_snr=zero_snr)
    latents, noise, _ = draws(2)
    assert torch.equal(
        prediction_target(latents, noise, TIMESTEPS_B, schedule=ours),
        scheduler.get_velocity(latents, noise, TIMESTEPS_B),
    )


def test_latents_are_drawn_as_the_vaes_distribution_draws() -> None:
    mean, logvar, noise = draws(3)
    logvar = logvar * 40  # far beyond the bounds on both sides
    distribution = DiagonalGaussianDistribution(torch.cat([mean, logvar], dim=1))
    theirs = (distribution.mean + distribution.std * noise) * 0.13025
    ours = sample_latents(mean, logvar, noise, scale=LatentScale(scaling_factor=0.13025))
    assert torch.equal(ours, theirs)


def test_latents_mean_and_std_of_the_vae_are_honoured() -> None:
    mean, logvar, noise = draws(4)
    scale = LatentScale(scaling_factor=0.5, mean=(-1.0, 0.5, 0.0, 2.0), std=(8.0, 4.0, 2.0, 1.0))
    ours = sample_latents(mean, logvar, noise, scale=scale)
    sample = mean + torch.exp(0.5 * logvar) * noise
    shift, spread = (torch.tensor(numbers).view(1, 4, 1, 1) for numbers in (scale.mean, scale.std))
    torch.testing.assert_close(ours, (sample - shift) * 0.5 / spread, rtol=1e-6, atol=1e-6)


def test_loss_is_float32_mean_squared_error_also_for_bf16() -> None:
    prediction, target, _ = draws(5)
    loss = denoising_loss(prediction.bfloat16(), target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(((prediction.bfloat16().float() - target) ** 2).mean().item(), rel=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_weights_are_those_of_the_script(prediction_type: PredictionType, gamma: float) -> None:
    scheduler, ours = scheduler_and_ours(prediction_type)
    snr = compute_snr(scheduler, TIMESTEPS_B)
    theirs = torch.stack([snr, gamma * torch.ones_like(TIMESTEPS_B)], dim=1).min(dim=1)[0] / snr
    if prediction_type == "v_prediction":
        theirs = theirs + 1
    torch.testing.assert_close(min_snr_weights(TIMESTEPS_B, schedule=ours, gamma=gamma), theirs, rtol=1e-6, atol=0)
    assert theirs.unique().numel() > 2


def test_min_snr_weight_of_pure_noise_is_finite() -> None:
    """The script divides nothing by nothing at the last timestep of a model with zero terminal SNR."""
    scheduler, ours = scheduler_and_ours("v_prediction", rescale_betas_zero_snr=True)
    assert compute_snr(scheduler, TIMESTEPS_B)[-1] == 0
    assert min_snr_weights(TIMESTEPS_B, schedule=ours, gamma=5.0)[-1] == 2.0


def test_weighted_loss_is_the_mean_of_each_samples_error_times_its_weight() -> None:
    prediction, target, _ = draws(6)
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    errors = [((prediction[row] - target[row]) ** 2).mean() for row in range(5)]
    expected = sum(weight * error for weight, error in zip(weights, errors, strict=True)) / 5
    torch.testing.assert_close(denoising_loss(prediction, target, weights), expected, rtol=1e-6, atol=0)
