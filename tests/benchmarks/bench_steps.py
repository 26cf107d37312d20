"""Samples a second of `dbr train` against the plain loop."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from bench_model import BATCH_SIZE, PROMPT, RESOLUTION, SEED, train_words
from plain_loop import PlainBatch, PlainLoop

from dreambooth_resume.config.load import parse_train
from dreambooth_resume.data.batch import BatchBuilder, LatentSize
from dreambooth_resume.data.dataset import PictureSet, scan_pictures
from dreambooth_resume.data.draws import Draws, Timesteps
from dreambooth_resume.data.plan import Plan, Slot
from dreambooth_resume.data.samples import Sample
from dreambooth_resume.data.transforms import CropOptions, load_pixels, time_ids, variant_crop
from dreambooth_resume.training.progress import StepUpdate
from dreambooth_resume.workflows.train import train

BLOCK_STEPS = 10
TOLERANCE = 1e-5
_LATENTS = LatentSize(channels=4, pixels_per_latent=8, resolution=RESOLUTION)
_TRAIN_TIMESTEPS = 1000
_CROPS = CropOptions(resolution=RESOLUTION, center_crop=False, random_flip=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """Seconds of a step of each (median over blocks), and of each pair of neighbouring blocks plain / dbr."""

    dbr_seconds: float
    plain_seconds: float
    ratios: tuple[float, ...]
    compared_steps: int
    largest_difference: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


class _Interleaved:
    """The reporter of a real `dbr train` that, after each block of its steps, trains the plain loop on the same ones.

    All that dbr does between two calls of `step` is on its account: loader, step, log, heartbeat, and one checkpoint a
    block, which is written behind its steps. The first block is a warm-up of both.
    """

    def __init__(self, plain: PlainLoop, batches: list[PlainBatch]) -> None:
        self._plain = plain
        self._batches = batches
        self._dbr_losses: list[float] = []
        self._plain_losses: list[float] = []
        self._dbr_seconds: list[float] = []
        self._plain_seconds: list[float] = []
        self._since = 0.0

    def step(self, update: StepUpdate) -> None:
        now = time.perf_counter()
        self._dbr_losses.append(update.loss)
        if update.step % BLOCK_STEPS == 0:
            self._dbr_seconds.append(now - self._since)
            # A switch of dbr's, which the script doesn't set.
            torch.use_deterministic_algorithms(False)
            now = time.perf_counter()
            block = self._batches[update.step - BLOCK_STEPS : update.step]
            self._plain_losses += [self._plain.step(batch) for batch in block]
            self._plain_seconds.append(time.perf_counter() - now)
            torch.use_deterministic_algorithms(True)
            self._since = time.perf_counter()

    def message(self, text: str) -> None: ...

    def phase(self, name: str, done: int, total: int) -> None: ...

    def close(self) -> None: ...

    def figures(self) -> StepFigures:
        differences = [abs(one - other) for one, other in zip(self._dbr_losses, self._plain_losses, strict=True)]
        dbr, plain = self._dbr_seconds[1:], self._plain_seconds[1:]
        return StepFigures(
            dbr_seconds=statistics.median(dbr) / BLOCK_STEPS,
            plain_seconds=statistics.median(plain) / BLOCK_STEPS,
            ratios=tuple(slow / fast for fast, slow in zip(dbr, plain, strict=True)),
            compared_steps=len(differences),
            largest_difference=max(differences),
        )


def measure_steps(folder: Path, plain: PlainLoop, *, pairs: int) -> StepFigures:
    """Train `pairs` + 1 blocks with both, turn about. The run is left finished in `folder`/home."""
    steps = (pairs + 1) * BLOCK_STEPS
    reporter = _Interleaved(plain, _batches(folder / "pictures", steps))
    words = train_words(folder, folder / "home", steps=steps, checkpointing_steps=BLOCK_STEPS)
    train(parse_train(words), reporter)
    return reporter.figures()


class _CroppedPixels:
    """The pixels of the crop whose latents dbr takes from its cache; each is read once."""

    def __init__(self, pictures: PictureSet) -> None:
        self._pictures = pictures.pictures
        self._seen: dict[tuple[int, int], Sample] = {}

    def __call__(self, slot: Slot) -> Sample:
        chosen = (slot.picture, slot.variant)
        if chosen not in self._seen:
            picture = self._pictures[slot.picture]
            crop = variant_crop(picture, slot.variant, seed=SEED, options=_CROPS)
            self._seen[chosen] = Sample(
                pixels=load_pixels(picture, crop, interpolation="lanczos"),
                time_ids=time_ids(picture, crop),
            )
        return self._seen[chosen]


def _batches(pictures_folder: Path, steps: int) -> list[PlainBatch]:
    pictures = scan_pictures(pictures_folder, prompt=PROMPT, skip_bad=False)
    builder = BatchBuilder(
        Plan(seed=SEED, picture_count=len(pictures.pictures), batch_size=BATCH_SIZE),
        pictures,
        _CroppedPixels(pictures),
        micro_batch_size=BATCH_SIZE,
        latents=_LATENTS,
        draws=Draws(timesteps=Timesteps(end=_TRAIN_TIMESTEPS)),
    )
    batches = []
    for step in range(steps):
        (drawn,) = builder(step).micro_batches
        assert drawn.pixels is not None
        batches.append(
            PlainBatch(
                pixels=tuple(drawn.pixels),
                vae_noise=drawn.vae_noise,
                noise=drawn.noise,
                timesteps=drawn.timesteps,
                time_ids=drawn.time_ids,
            )
        )
    return batches
