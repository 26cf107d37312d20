"""The plain loop of Diffusers' SDXL DreamBooth LoRA script, for the same draws: what dbr's step is compared with.

As in the script's defaults: pixels in memory, prompts encoded once, the VAE at every step, a whole batch a call,
torch's own AdamW, accelerate around it all, and the loss read at every step. What it would draw (crops, noise,
timesteps) is handed in ready-made, which is to its advantage: dbr draws within its step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from bench_model import LEARNING_RATE, PROMPT, RANK, SEED
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from peft import LoraConfig
from torch.nn.functional import mse_loss

from dreambooth_resume.data.random import Stream, generator


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainBatch:
    """A step's pixels [B of (3, H, W)] and draws: vae_noise and noise [B, 4, h, w], timesteps [B], time_ids [B, 6]."""

    pixels: tuple[torch.Tensor, ...]
    vae_noise: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    time_ids: torch.Tensor


class PlainLoop:
    """The script between its set-up and its last line."""

    def __init__(self, model: Path, *, steps: int) -> None:
        self.accelerator = Accelerator(gradient_accumulation_steps=1, mixed_precision="no")
        self.prompt_embeds, self.pooled = _encode_prompt(model)
        self.vae = AutoencoderKL.from_pretrained(model / "vae").requires_grad_(False)
        self.noise_scheduler = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
        unet = UNet2DConditionModel.from_pretrained(model / "unet").requires_grad_(False)
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=targets))
        unet.train()
        _start_as_dbr_does(unet)
        self.parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            self.parameters, lr=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=1e-4, eps=1e-8
        )
        lr_scheduler = get_scheduler("constant", optimizer=optimizer, num_training_steps=steps)
        self.unet, self.optimizer, self.lr_scheduler = self.accelerator.prepare(unet, optimizer, lr_scheduler)

    def step(self, batch: PlainBatch) -> float:
        """One update; returns its loss."""
        with self.accelerator.accumulate(self.unet):
            pixels = torch.stack(batch.pixels).to(memory_format=torch.contiguous_format).float()
            distribution = self.vae.encode(pixels).latent_dist
            latents = distribution.mean + distribution.std * batch.vae_noise
            latents = latents * self.vae.config.scaling_factor
            noisy = self.noise_scheduler.add_noise(latents, batch.noise, batch.timesteps)
            count = len(batch.pixels)
            added = {"time_ids": batch.time_ids, "text_embeds": self.pooled.repeat(count, 1)}
            prediction = self.unet(
                noisy,
                batch.timesteps,
                self.prompt_embeds.repeat(count, 1, 1),
                added_cond_kwargs=added,
                return_dict=False,
            )[0]
            loss = mse_loss(prediction.float(), batch.noise.float(), reduction="mean")
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()
        return float(loss.detach().item())


def _encode_prompt(model: Path) -> tuple[torch.Tensor, torch.Tensor]:
    pipeline = StableDiffusionXLPipeline.from_pretrained(model, unet=None, vae=None)
    with torch.no_grad():
        prompt_embeds, _, pooled, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    return prompt_embeds, pooled


def _start_as_dbr_does(unet: torch.nn.Module) -> None:
    """The adapter's start values are draws too: peft's "gaussian", with the numbers that dbr draws."""
    matrices = [(name, parameter) for name, parameter in unet.named_parameters() if ".lora_A." in name]
    with torch.no_grad():
        for number, (_, parameter) in enumerate(sorted(matrices)):
            rng = generator(SEED, Stream.INIT, step=number)
            numbers = rng.standard_normal(tuple(parameter.shape), dtype=np.float32)
            parameter.copy_(torch.from_numpy(numbers / np.float32(RANK)))
