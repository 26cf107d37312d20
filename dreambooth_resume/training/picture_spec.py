"""One picture that is to be made: all that decides it but the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from dreambooth_resume.config.shots import Shot
from dreambooth_resume.data.random import Stream, generator

# SAMPLE's draw for these; 1 and 2 are the class pictures'.
_NOISE_DRAW = 3
GUIDANCE_SCALE = 5.0
"""Of Diffusers' StableDiffusionXLPipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSpec:
    """Prompt, size in pixels, and the noise that it begins from: that of the `number` among those with this seed."""

    prompt: str
    height: int
    width: int
    num_inference_steps: int
    seed: int
    number: int = 0
    negative_prompt: str = ""
    guidance_scale: float = GUIDANCE_SCALE

    def noise(self, *, channels: int, pixels_per_latent: int) -> NDArray[np.float32]:
        """Standard normal [channels, height, width] of the latents: a pure function of seed, number and size."""
        shape = (channels, self.height // pixels_per_latent, self.width // pixels_per_latent)
        draw = generator(self.seed, Stream.SAMPLE, slot=self.number, draw=_NOISE_DRAW)
        return draw.standard_normal(shape, dtype=np.float32)

    def facts(self) -> dict[str, JsonValue]:
        """For the list beside the pictures."""
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "height": self.height,
            "width": self.width,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "seed": self.seed,
            "number": self.number,
        }


def spec_of(shot: Shot, *, number: int, seed: int, side: int, num_inference_steps: int) -> PictureSpec:
    """The shot with the run's values for what it leaves open. With a seed of its own it needs no number."""
    return PictureSpec(
        prompt=shot.prompt,
        negative_prompt=shot.negative_prompt,
        height=shot.height or side,
        width=shot.width or side,
        num_inference_steps=shot.num_inference_steps or num_inference_steps,
        guidance_scale=GUIDANCE_SCALE if shot.guidance_scale is None else shot.guidance_scale,
        seed=seed if shot.seed is None else shot.seed,
        number=number if shot.seed is None else 0,
    )
