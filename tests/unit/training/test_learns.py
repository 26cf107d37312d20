"""It learns: on fixed draws the loss falls by a stated factor, with the shipped step and nothing mocked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from dreambooth_resume.data.batch import Batch, MicroBatch
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.training.schedule import LearningRateSchedule
from dreambooth_resume.training.step import TrainableModel, prompt_table, train_step
from tests.fakes.optimizers import one_group

FACTOR = 2.5
MAX_STEPS = 150
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def fixed_draws(model: TrainableModel) -> MicroBatch:
    """Four pictures of stripes with fixed timesteps and noise."""
    rng = np.random.default_rng(0)
    rows = np.arange(64, dtype=np.float32)
    pictures = [np.sin(rows / (2 + number))[None, :, None] * np.ones((3, 64, 64), np.float32) for number in range(4)]
    assert model.encode_pixels is not None
    encoded = [model.encode_pixels(torch.from_numpy(picture)) for picture in pictures]
    return MicroBatch(
        pixels=None,
        mean=torch.stack([mean for mean, _ in encoded]),
        logvar=torch.stack([logvar for _, logvar in encoded]),
        vae_noise=torch.from_numpy(rng.standard_normal((4, 4, 8, 8), dtype=np.float32)),
        noise=torch.from_numpy(rng.standard_normal((4, 4, 8, 8), dtype=np.float32)),
        timesteps=torch.tensor([100, 400, 700, 950]),
        prompt_index=torch.zeros(4, dtype=torch.int64),
        time_ids=torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 4),
        dropout_seed=0,
    )


def test_loss_on_fixed_draws_falls_by_the_stated_factor(tiny_source: ModelSource) -> None:
    family = family_named(tiny_source.family)
    denoiser = family.load_denoiser(tiny_source, device=CPU, weight_dtype=torch.float32, gradient_checkpointing=False)
    encoders = family.encoders(tiny_source, device=CPU)
    model = TrainableModel(
        denoiser=denoiser,
        parameters=add_lora(
            denoiser,
            LoraSpec(rank=16, alpha=16),
            normal_draw=lambda number, shape: np.random.default_rng(number).standard_normal(shape, dtype=np.float32),
        ),
        prompts=prompt_table([encoders.encode_prompt("a photo of sks stripes")], denoiser=denoiser, device=CPU),
        accelerator=Accelerator(cpu=True, mixed_precision="no"),
        encode_pixels=encoders.encode_pixels,
    )
    schedule = LearningRateSchedule(name="constant_with_warmup", peak=1e-2, warmup_steps=5, total_steps=MAX_STEPS)
    optimizer = one_group(model.parameters, schedule=schedule)
    draws = fixed_draws(model)
    losses = []
    for step in range(MAX_STEPS):
        batch = Batch(step=step, micro_batches=(draws,), picture_names=(), slots=draws.slots, micro_batch_count=1)
        losses.append(train_step(model, batch, optimizer=optimizer, max_grad_norm=1.0).loss)
        if losses[-1] < losses[0] / FACTOR:
            return
    pytest.fail(f"after {MAX_STEPS} steps the loss went from {losses[0]:.3f} to {losses[-1]:.3f}")
