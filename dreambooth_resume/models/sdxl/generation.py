"""Pictures from parts that are in memory: the sampling loop of Diffusers' StableDiffusionXLPipeline, on our denoiser.

Nothing is read from disk and nothing is drawn: the noise comes in, so a picture is a pure function of it and of the
weights. The caller has put the denoiser into evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dreambooth_resume.models.base import Denoiser, SamplingSettings
from dreambooth_resume.models.quiet import quiet_loading


class SdxlSampler:
    """Noise to latents, guided by a prompt, with the scheduler that Diffusers' script makes its pictures with."""

    def __init__(
        self, scheduler_config: Mapping[str, Any], *, device: torch.device, negative_prompt_is_zeros: bool
    ) -> None:
        self._scheduler_config = dict(scheduler_config)
        self._device = device
        self.negative_prompt_is_zeros = negative_prompt_is_zeros

    def sample(
        self,
        denoiser: Denoiser,
        *,
        noise_BCHW: torch.Tensor,
        prompt_BSD_BP: tuple[torch.Tensor, torch.Tensor],
        negative_BSD_BP: tuple[torch.Tensor, torch.Tensor] | None,
        settings: SamplingSettings,
        should_stop: Callable[[], bool],
    ) -> torch.Tensor | None:
        """Latents for `Encoders.decode_latents`, float32 [batch, channels, height, width]; None if told to stop.

        noise_BCHW: standard normal. prompt_BSD_BP: embeddings [batch, tokens, width] and pooled ones [batch, width];
        negative_BSD_BP: those of the empty prompt, None for zeros. Looks at `should_stop` before every denoising step.
        """
        prompt, pooled = (one.to(self._device) for one in prompt_BSD_BP)
        guided = settings.guidance_scale > 1
        if guided:
            negative, negative_pooled = (
                (torch.zeros_like(prompt), torch.zeros_like(pooled))
                if negative_BSD_BP is None
                else (one.to(self._device) for one in negative_BSD_BP)
            )
            prompt, pooled = torch.cat([negative, prompt]), torch.cat([negative_pooled, pooled])
        scheduler = self._scheduler(settings)
        time_ids = torch.tensor(
            [[settings.height, settings.width, 0, 0, settings.height, settings.width]],
            dtype=torch.float32,
            device=self._device,
        ).repeat(len(prompt), 1)
        with torch.no_grad():
            latents: torch.Tensor = noise_BCHW.to(self._device, torch.float32) * scheduler.init_noise_sigma
            for timestep in scheduler.timesteps:
                if should_stop():
                    return None
                prediction = denoiser.predict(
                    scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep),
                    timestep.expand(len(prompt)),
                    prompt_embeds_BSD=prompt,
                    pooled_prompt_embeds_BP=pooled,
                    time_ids_B6=time_ids,
                )
                if guided:
                    without, with_prompt = prediction.chunk(2)
                    prediction = without + settings.guidance_scale * (with_prompt - without)
                latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        return latents

    def _scheduler(self, settings: SamplingSettings) -> Any:
        """DPM-Solver++ on the model's own noise schedule; for EDM-style training the model's own kind of scheduler."""
        with quiet_loading():
            import diffusers
            from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

            config = dict(self._scheduler_config)
            if settings.edm_style:
                own = "EDMEulerScheduler" if "EDM" in str(config.get("_class_name")) else "EulerDiscreteScheduler"
                scheduler = getattr(diffusers, own).from_config(config)
            else:
                # A learned variance is no output of this training.
                learned = str(config.get("variance_type", "")).startswith("learned")
                changed = {"variance_type": "fixed_small"} if learned else {}
                scheduler = DPMSolverMultistepScheduler.from_config(config, **changed)
        scheduler.set_timesteps(settings.num_inference_steps, device=self._device)
        return scheduler
