"""Makes the class pictures that a run lacks, with the base model, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from dreambooth_resume.data.class_images import Making, Pixels, as_pictures, complete, starting_noise
from dreambooth_resume.data.dataset import Picture
from dreambooth_resume.data.transforms import FloatArray
from dreambooth_resume.models.base import Denoiser, Encoders, SamplingSettings
from dreambooth_resume.preemption.watcher import Watcher
from dreambooth_resume.storage.base import Storage
from dreambooth_resume.training.progress import Reporter

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dreambooth_resume.training.build import Assignment

Embeddings = tuple[FloatArray, FloatArray]
"""A prompt's embedding [tokens, width] and pooled embedding [width]."""

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Raise it when the same recipe makes other pictures than before.
_RECIPE_VERSION = 1


def class_pictures(
    assignment: Assignment, storage: Storage, encoders: Encoders, *, device: torch.device, reporter: Reporter,
    watcher: Watcher,
) -> tuple[Picture, ...]:  # fmt: skip
    """All class pictures of the run, on this machine: those that were found, then those that the base model makes.

    Empty without prior preservation. Loads a model only if one has to be made. Raises Interrupted or StoppedOnPurpose
    for a notice meanwhile; pictures made until then are kept.
    """
    wanted = assignment.class_pictures
    if wanted is None:
        return ()
    making = _making(assignment)
    painter = _Painter(assignment, encoders, device=device, watcher=watcher)
    made = complete(
        storage,
        wanted.stage,
        making,
        painter,
        should_stop=watcher.should_stop,
        on_progress=lambda done, total: reporter.phase("making class pictures", done, total) if total else None,
    )
    painter.free()
    if made is None:
        watcher.leave_if_asked("making class pictures")
        raise AssertionError("told to stop without a notice")
    return (*wanted.found, *as_pictures(storage, wanted.stage, made, prompt=wanted.prompt))


def _making(assignment: Assignment) -> Making:
    wanted, prior = assignment.class_pictures, assignment.options.prior
    assert wanted is not None
    settings = _settings(assignment)
    recipe: dict[str, JsonValue] = {
        "kind": "class picture",
        "version": _RECIPE_VERSION,
        "model": assignment.family.generation_key(assignment.digests),
        "prompt": wanted.prompt,
        "seed": assignment.seed,
        # None is the device's: what one machine made is not made again by another.
        "precision": prior.generation_precision,
        "size": [settings.height, settings.width],
        "steps": settings.num_inference_steps,
        "guidance": settings.guidance_scale,
    }
    return Making(recipe=recipe, count=wanted.to_make, batch_size=prior.sample_batch_size)


def _settings(assignment: Assignment) -> SamplingSettings:
    side = assignment.facts.picture_side
    # The model's own kind of scheduler, which Diffusers' script leaves in the pipeline for its class pictures.
    return SamplingSettings(height=side, width=side, edm_style=True)


class _Painter:
    """The base model without an adapter, loaded when the first picture is asked for."""

    def __init__(self, assignment: Assignment, encoders: Encoders, *, device: torch.device, watcher: Watcher) -> None:
        self._assignment = assignment
        self._encoders = encoders
        self._device = device
        self._watcher = watcher
        self._sampler = assignment.family.sampler(assignment.source, device=device)
        self._denoiser: Denoiser | None = None
        self._prompt: Embeddings | None = None
        self._negative: Embeddings | None = None

    def __call__(self, numbers: range) -> Sequence[Pixels] | None:
        if self._denoiser is None or self._prompt is None:
            self._denoiser, self._prompt = self._load()
        facts, settings = self._assignment.facts, _settings(self._assignment)
        height, width = settings.height // facts.pixels_per_latent, settings.width // facts.pixels_per_latent
        shape = (facts.latent_channels, height, width)
        noise = np.stack([starting_noise(self._assignment.seed, number, shape) for number in numbers])
        latents = self._sampler.sample(
            self._denoiser,
            noise_BCHW=torch.from_numpy(noise),
            prompt_BSD_BP=_repeated(self._prompt, len(numbers)),
            negative_BSD_BP=_repeated(self._negative, len(numbers)) if self._negative else None,
            settings=settings,
            should_stop=self._watcher.should_stop,
        )
        return None if latents is None else [self._encoders.decode_latents(one) for one in latents]

    def free(self) -> None:
        if self._denoiser is not None:
            self._denoiser = None
            self._encoders.free()  # which also looks for what the denoiser left

    def _load(self) -> tuple[Denoiser, Embeddings]:
        wanted = self._assignment.class_pictures
        assert wanted is not None
        prompt = self._encoders.encode_prompt(wanted.prompt)
        if not self._sampler.negative_prompt_is_zeros:
            self._negative = self._encoders.encode_prompt("")
        self._encoders.free()  # the text encoders' memory is the denoiser's now
        chosen = self._assignment.options.prior.generation_precision
        denoiser = self._assignment.family.load_denoiser(
            self._assignment.source,
            device=self._device,
            weight_dtype=_DTYPES[chosen or ("fp32" if self._device.type == "cpu" else "fp16")],
            gradient_checkpointing=False,
            offload=self._assignment.options.training.offload,
        )
        denoiser.module.eval()
        return denoiser, prompt


def _repeated(embeddings: Embeddings, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    prompt_embeds, pooled = (torch.from_numpy(one) for one in embeddings)
    return prompt_embeds.repeat(count, 1, 1), pooled.repeat(count, 1)
