"""min-SNR and EDM-style losses: loss and gradients against the script's own lines with Diffusers' schedulers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler, EDMEulerScheduler, EulerDiscreteScheduler
from diffusers.training_utils import compute_snr

from dreambooth_resume.data.batch import MicroBatch
from dreambooth_resume.models.base import PredictionType
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.training.objective import Objective
from dreambooth_resume.training.step import TrainableModel, micro_batch_loss, prompt_table

CPU = torch.device("cpu")
SourceWith = Callable[[PredictionType], ModelSource]
PREDICTIONS = pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
SIZES = pytest.mark.parametrize("size", [1, 3])
CLASS_WEIGHTS = pytest.mark.parametrize("class_weight", [None, 0.7])


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def build_model(source: ModelSource, objective: Objective) -> TrainableModel:
    family = family_named(source.family)
    denoiser = family.load_denoiser(source, device=CPU, weight_dtype=torch.float32, gradient_checkpointing=False)
    encoders = family.encoders(source, device=CPU)

    def draw(number: int, shape: tuple[int, int]) -> np.ndarray:
        return np.random.default_rng(number).standard_normal(shape, dtype=np.float32)

    model = TrainableModel(
        denoiser=denoiser,
        parameters=add_lora(denoiser, LoraSpec(rank=4, alpha=4), normal_draw=draw),
        prompts=prompt_table([encoders.encode_prompt("a photo of sks robot")], denoiser=denoiser, device=CPU),
        accelerator=Accelerator(cpu=True, mixed_precision="no"),
        objective=objective,
    )
    with torch.no_grad():  # B is zero at the start, and A would have no gradient
        for number, parameter in enumerate(model.parameters.values()):
            parameter.copy_(torch.from_numpy(draw(number, tuple(parameter.shape))) * 0.02)
    return model


def make_batch(size: int, class_weight: float | None) -> MicroBatch:
    rng = np.random.default_rng(5)
    samples = size if class_weight is None else 2 * size
    normal = [torch.from_numpy(rng.standard_normal((samples, 4, 8, 8), dtype=np.float32)) for _ in range(4)]
    return MicroBatch(
        pixels=None,
        mean=normal[0] * 7,
        logvar=normal[1] - 4,
        vae_noise=normal[2],
        noise=normal[3],
        timesteps=torch.from_numpy(rng.integers(0, 1000, samples)),
        prompt_index=torch.zeros(samples, dtype=torch.int64),
        time_ids=torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(samples, 6),
        dropout_seed=1,
        class_weight=class_weight,
    )


def scripts_loss(model: TrainableModel, batch: MicroBatch, scheduler: Any, *, snr_gamma: float | None) -> torch.Tensor:
    """Lines 1680 to 1858 of the script; min-SNR beside prior preservation as in its advanced sibling, :2299."""
    assert batch.mean is not None
    assert batch.logvar is not None
    is_edm_style = not isinstance(scheduler, DDPMScheduler)
    model_input = (batch.mean + torch.exp(0.5 * batch.logvar) * batch.vae_noise) * 0.13025
    # What is drawn are rows of the scheduler's tables.
    timesteps = scheduler.timesteps[batch.timesteps] if is_edm_style else batch.timesteps
    noisy_model_input = scheduler.add_noise(model_input, batch.noise, timesteps)
    inp_noisy_latents = noisy_model_input
    sigmas = torch.tensor(0.0)
    if is_edm_style:
        step_indices = [(scheduler.timesteps == t).nonzero().item() for t in timesteps]
        sigmas = scheduler.sigmas[step_indices].flatten()[:, None, None, None]
        if isinstance(scheduler, EDMEulerScheduler):
            inp_noisy_latents = scheduler.precondition_inputs(noisy_model_input, sigmas)
        else:
            inp_noisy_latents = noisy_model_input / ((sigmas**2 + 1) ** 0.5)
    prompt_embeds, pooled_prompt_embeds = model.prompts.embeddings(batch.prompt_index)
    model_pred = model.denoiser.module(
        inp_noisy_latents,
        timesteps,
        prompt_embeds,
        added_cond_kwargs={"text_embeds": pooled_prompt_embeds, "time_ids": batch.time_ids},
        return_dict=False,
    )[0]
    weighting = None
    prediction_type = scheduler.config.prediction_type
    if is_edm_style:
        if isinstance(scheduler, EDMEulerScheduler):
            model_pred = scheduler.precondition_outputs(noisy_model_input, model_pred, sigmas)
        else:
            if prediction_type == "epsilon":
                model_pred = model_pred * (-sigmas) + noisy_model_input
            else:
                model_pred = model_pred * (-sigmas / (sigmas**2 + 1) ** 0.5) + (noisy_model_input / (sigmas**2 + 1))
            weighting = (sigmas**-2.0).float()
        target = model_input
    elif prediction_type == "epsilon":
        target = batch.noise
    else:
        target = scheduler.get_velocity(model_input, batch.noise, timesteps)

    def mean(prediction: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        squares = (prediction - wanted) ** 2
        return (squares if weights is None else weights * squares).reshape(wanted.shape[0], -1).mean(1).mean()

    parts: list[tuple[torch.Tensor, ...]] = [(model_pred, target)]
    if batch.class_weight is not None:
        parts = list(zip(torch.chunk(model_pred, 2, dim=0), torch.chunk(target, 2, dim=0), strict=True))
    size = parts[0][0].shape[0]
    if snr_gamma is None:
        loss = mean(*parts[0], None if weighting is None else weighting[:size])
    else:
        snr = compute_snr(scheduler, timesteps[:size])
        weights = torch.stack([snr, snr_gamma * torch.ones_like(timesteps[:size])], dim=1).min(dim=1)[0] / snr
        loss = mean(*parts[0], (weights + (prediction_type == "v_prediction"))[:, None, None, None])
    if batch.class_weight is not None:
        loss = loss + batch.class_weight * mean(*parts[1], None if weighting is None else weighting[size:])
    return loss


def assert_same(model: TrainableModel, batch: MicroBatch, scheduler: Any, *, snr_gamma: float | None = None) -> None:
    found = []
    for loss in (micro_batch_loss(model, batch), scripts_loss(model, batch, scheduler, snr_gamma=snr_gamma)):
        gradients = torch.autograd.grad(loss, list(model.parameters.values()))
        found.append((loss.item(), torch.cat([gradient.flatten() for gradient in gradients])))
    (ours, our_gradient), (theirs, their_gradient) = found
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert their_gradient.norm() > 0
    assert (our_gradient - their_gradient).norm() < 1e-4 * their_gradient.norm()
    if snr_gamma is not None and batch.slots > 1:  # else the comparison above would say little
        assert ours != pytest.approx(micro_batch_loss(replace(model, objective=Objective()), batch).item(), rel=1e-3)


def is_edm(model: TrainableModel) -> bool:
    return model.denoiser.noise_schedule.edm.sigma_data is not None


@PREDICTIONS
@SIZES
@CLASS_WEIGHTS
def test_min_snr(
    prediction_type: PredictionType, size: int, class_weight: float | None, source_with: SourceWith
) -> None:
    source = source_with(prediction_type)
    scheduler = DDPMScheduler.from_pretrained(source.folder, subfolder="scheduler")
    model = build_model(source, Objective(snr_gamma=1.0))
    assert_same(model, make_batch(size, class_weight), scheduler, snr_gamma=1.0)


@PREDICTIONS
@CLASS_WEIGHTS
def test_edm_style_on_a_model_with_alphas(
    prediction_type: PredictionType, class_weight: float | None, source_with: SourceWith
) -> None:
    source = source_with(prediction_type)
    scheduler = EulerDiscreteScheduler.from_pretrained(source.folder, subfolder="scheduler")
    assert_same(build_model(source, Objective(edm_style=True)), make_batch(3, class_weight), scheduler)


@PREDICTIONS
@CLASS_WEIGHTS
def test_edm_model(prediction_type: PredictionType, class_weight: float | None, source_with: SourceWith) -> None:
    source = source_with(prediction_type)
    config = {"_class_name": "EDMEulerScheduler", "prediction_type": prediction_type, "sigma_data": 0.5}
    (source.folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    assert family_named(source.family).check(source).is_edm
    scheduler = EDMEulerScheduler.from_pretrained(source.folder, subfolder="scheduler")
    model = build_model(source, Objective(edm_style=True))
    assert is_edm(model)
    assert_same(model, make_batch(3, class_weight), scheduler)
