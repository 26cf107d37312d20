"""Held-out pictures at fixed noise levels: what a validation loss is measured on, the same at every step of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dreambooth_resume.data.batch import MicroBatch
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.data.samples import Sample

LEVELS = 4
"""Noise levels at which each picture is looked at: the middles of so many equal parts of the timesteps."""


class HeldOut:
    """Micro-batches of one picture at one noise level each; a pure function of the seed and the number.

    `samples` are the pictures' latents and sizes, in their order. The latents are the VAE's means, and the noise is a
    draw of VALIDATION's: nothing that training draws.
    """

    def __init__(self, pictures: PictureSet, samples: Sequence[Sample], *, seed: int, train_timesteps: int) -> None:
        self._prompt_index = [pictures.prompts.index(picture.prompt) for picture in pictures.pictures]
        self._samples = tuple(samples)
        self._seed = seed
        self._timesteps = [train_timesteps * (2 * level + 1) // (2 * LEVELS) for level in range(LEVELS)]

    def __len__(self) -> int:
        return len(self._samples) * LEVELS

    def __getitem__(self, number: int) -> MicroBatch:
        picture, level = divmod(number, LEVELS)
        sample = self._samples[picture]
        assert sample.mean is not None, "held-out pictures come from the cache"
        assert sample.logvar is not None
        rng = generator(self._seed, Stream.VALIDATION, step=level, slot=picture)
        noise = torch.from_numpy(rng.standard_normal(sample.mean.shape, dtype=np.float32)).unsqueeze(0)
        return MicroBatch(
            pixels=None,
            mean=torch.tensor(sample.mean).unsqueeze(0),
            logvar=torch.tensor(sample.logvar).unsqueeze(0),
            vae_noise=torch.zeros_like(noise),
            noise=noise,
            timesteps=torch.tensor([self._timesteps[level]]),
            prompt_index=torch.tensor([self._prompt_index[picture]]),
            time_ids=torch.tensor(sample.time_ids).unsqueeze(0),
            dropout_seed=0,
        )
