"""The objective against the formulas of Diffusers' own scheduler and VAE."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import compute_snr

from dreambooth_resume.models.base import EdmSchedule, LatentScale, NoiseSchedule, PredictionType
from dreambooth_resume.training.objective import (
    Measure,
    Objective,
    add_noise,
    debiased_weights,
    denoising_loss,
    huber_sizes,
    min_snr_weights,
    prediction_target,
    question,
    sample_latents,
    scored,
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


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_debiased_weights_are_kohyas(prediction_type: PredictionType) -> None:
    scheduler, ours = scheduler_and_ours(prediction_type)
    expected = []
    for timestep in TIMESTEPS_B.tolist():
        alpha = scheduler.alphas_cumprod[timestep].item()
        snr = min(alpha / (1 - alpha), 1000.0)
        expected.append(1 / (snr + 1) if prediction_type == "v_prediction" else 1 / math.sqrt(snr))
    torch.testing.assert_close(debiased_weights(TIMESTEPS_B, schedule=ours), torch.tensor(expected), rtol=1e-5, atol=0)
    assert expected[0] == (1 / 1001 if prediction_type == "v_prediction" else 1000**-0.5)  # bounded there


@pytest.mark.parametrize("name", ["snr", "exponential", "constant"])
def test_sizes_from_which_errors_count_as_large_are_kohyas(name: str) -> None:
    scheduler, ours = scheduler_and_ours("epsilon")
    expected = []
    for timestep in TIMESTEPS_B.tolist():
        alpha = scheduler.alphas_cumprod[timestep].item()
        sigma = math.sqrt((1 - alpha) / alpha)
        expected.append(
            {
                "snr": (1 - 0.2) / (1 + sigma) ** 2 + 0.2,
                "exponential": math.exp(math.log(0.2) / 1000 * timestep),
                "constant": 0.2,
            }[name]
        )
    sizes = huber_sizes(TIMESTEPS_B, schedule=ours, huber_c=0.2, huber_schedule=name)  # type: ignore[arg-type]
    torch.testing.assert_close(sizes, torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss_type", ["l1", "huber", "smooth_l1"])
def test_other_losses_are_their_formulas(loss_type: str, weighted: bool) -> None:
    prediction, target, _ = draws(7)
    sizes = torch.tensor([0.01, 0.1, 0.3, 0.7, 1.0])
    weights = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]) if weighted else None
    rows = []
    for row in range(5):
        difference, size = (prediction[row] - target[row]).double(), sizes[row].double()
        bent = 2 * (torch.sqrt(difference**2 + size**2) - size)
        errors = {"l1": difference.abs(), "huber": size * bent, "smooth_l1": bent}[loss_type]
        rows.append(errors.mean() * (1 if weights is None else weights[row]))
    measure = Measure(loss_type=loss_type, huber_c_B=None if loss_type == "l1" else sizes)  # type: ignore[arg-type]
    loss = denoising_loss(prediction.bfloat16().float(), target, weights, measure=measure)
    assert loss.dtype == torch.float32
    loss = denoising_loss(prediction, target, weights, measure=measure)
    torch.testing.assert_close(loss.double(), sum(rows) / 5, rtol=1e-5, atol=0)
    assert Measure(loss_type="huber", huber_c_B=sizes).of(slice(2, None)).huber_c_B is not None


def test_huber_is_squared_for_small_errors_and_bounded_in_slope() -> None:
    target = torch.zeros(1, 1, 1, 1)
    measure = Measure(loss_type="huber", huber_c_B=torch.tensor([0.5]))
    small, large = (denoising_loss(target + size, target, measure=measure).item() for size in (1e-2, 1e4))
    assert small == pytest.approx(1e-4, rel=1e-3)
    assert large == pytest.approx(2 * 0.5 * 1e4, rel=1e-3)


def test_weights_of_class_pictures_and_what_is_asked_with_a_perturbed_input() -> None:
    _, ours = scheduler_and_ours("epsilon")
    latents, noise, more = draws(8)
    objective = Objective(debiased=True, loss_type="huber")
    shown = noise + 0.1 * more
    asked = question(objective, latents, shown, TIMESTEPS_B, schedule=ours)
    assert torch.equal(asked.inputs_BCHW, add_noise(latents, shown, TIMESTEPS_B, schedule=ours))
    result = scored(
        objective, latents, asked, latents_BCHW=latents, noise_BCHW=noise, timesteps_B=TIMESTEPS_B, schedule=ours
    )
    assert torch.equal(result.target_BCHW, noise)
    assert result.weights_B is result.class_weights_B
    assert result.measure.huber_c_B is not None
