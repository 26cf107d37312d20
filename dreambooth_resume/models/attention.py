"""Other ways to compute attention than torch's own. Diffusers' models bring them; here they are switched on."""

from __future__ import annotations

from typing import Any, cast

from dreambooth_resume.models.base import Denoiser


def use_xformers(denoiser: Denoiser) -> None:
    """Compute the denoiser's attention with xFormers, which has to be installed and needs an NVIDIA GPU."""
    cast(Any, denoiser.module).enable_xformers_memory_efficient_attention()
