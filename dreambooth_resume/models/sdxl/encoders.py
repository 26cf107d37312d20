"""SDXL's two text encoders and its VAE, loaded when first asked and always computed in float32."""

from __future__ import annotations

import gc
import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.sdxl.single_file import load_part
from dreambooth_resume.models.sdxl.text_encoders import (
    TextEncoder,
    encode,
    load_text_models,
    tokenize,
    warn_of_what_is_cut,
)
from dreambooth_resume.models.source import ModelSource

logger = logging.getLogger(__name__)


class SdxlEncoders:
    """Prompts and pictures to what the UNet reads, one item a call.

    float32 in every precision of training (in half precision the VAE gives NaNs), so that what is cached serves all of
    them.
    """

    def __init__(self, source: ModelSource, *, device: torch.device) -> None:
        self._source = source
        self._device = device
        self._text: tuple[TextEncoder, ...] | None = None
        self._vae: Any = None

    def encode_prompt(
        self, prompt: str, *, clip_skip: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """prompt_embeds [77, 2048 in SDXL] and pooled_prompt_embeds [1280 in SDXL].

        The second-to-last hidden state of both encoders side by side, and the second one's projected output, as in
        Diffusers' `encode_prompt`. What is longer than 77 tokens is cut off, as there.
        """
        text = self._text_encoders()
        warn_of_what_is_cut(text, prompt)
        with torch.no_grad():
            prompt_embeds, pooled = encode(text, tokenize(text, [prompt], device=self._device), clip_skip=clip_skip)
        return prompt_embeds[0].float().cpu().numpy(), pooled[0].float().cpu().numpy()

    def encode_pixels(self, pixels_CHW: torch.Tensor | NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of one picture's latents, float32 [4, height / 8, width / 8], on the device."""
        pixels = torch.from_numpy(pixels_CHW) if isinstance(pixels_CHW, np.ndarray) else pixels_CHW
        pixels = pixels.to(self._device, torch.float32)
        with torch.no_grad():
            distribution = self._loaded_vae().encode(pixels.unsqueeze(0)).latent_dist
        return distribution.mean[0], distribution.logvar[0]

    def decode_latents(self, latents_CHW: torch.Tensor) -> NDArray[np.uint8]:
        """A picture [height, width, 3] of what a sampler made. Out of memory: in tiles, as Diffusers' VAE has them."""
        vae = self._loaded_vae()
        latents = self._unscaled(latents_CHW.to(self._device, torch.float32).unsqueeze(0))
        with torch.no_grad():
            try:
                decoded = vae.decode(latents, return_dict=False)[0][0]
            except torch.OutOfMemoryError:
                logger.info(
                    "The VAE decodes in tiles: a picture of this size does not fit into the memory that is left."
                )
                torch.cuda.empty_cache()
                vae.enable_tiling()
                try:
                    decoded = vae.decode(latents, return_dict=False)[0][0]
                finally:
                    vae.disable_tiling()
            pixels_CHW = (decoded / 2 + 0.5).clamp(0, 1)
        picture: NDArray[np.uint8] = (pixels_CHW.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
        return picture

    def _unscaled(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        config = self._loaded_vae().config
        if config.latents_mean is None or config.latents_std is None:
            return latents_BCHW / float(config.scaling_factor)
        mean, std = (
            torch.tensor(numbers, device=latents_BCHW.device).view(1, -1, 1, 1)
            for numbers in (config.latents_mean, config.latents_std)
        )
        return latents_BCHW * std / float(config.scaling_factor) + mean

    def set_aside(self) -> None:
        """Move what was loaded to main memory; the next call brings it back, and nothing is read from disk again."""
        if self._device.type == "cpu":
            return
        for module in [*(encoder.model for encoder in self._text or ()), self._vae]:
            if module is not None:
                module.to("cpu")
        torch.cuda.empty_cache()

    def free(self) -> None:
        """Drop whatever was loaded; the next call loads it again."""
        if self._text is None and self._vae is None:
            return
        self._text = None
        self._vae = None
        gc.collect()  # the modules hold cycles, so their memory would stay until some later collection
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _text_encoders(self) -> tuple[TextEncoder, ...]:
        if self._text is None:
            self._text = load_text_models(self._source, dtype=torch.float32)
            for encoder in self._text:
                self._prepared(encoder.model)
        for encoder in self._text:
            encoder.model.to(self._device)
        return self._text

    def _loaded_vae(self) -> Any:
        if self._vae is None:
            with quiet_loading():
                from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

                if (path := self._source.single_file_of("vae")) is not None:
                    vae = load_part(self._source, path, "vae", model_class=AutoencoderKL, dtype=torch.float32)
                else:
                    vae = AutoencoderKL.from_pretrained(
                        self._source.vae_folder,
                        variant=self._source.vae_variant,
                        torch_dtype=torch.float32,
                        use_safetensors=True,
                        local_files_only=True,
                    )
                self._vae = self._prepared(vae)
        return self._vae.to(self._device)

    def _prepared(self, module: Any) -> Any:
        return module.requires_grad_(False).eval().to(self._device)
