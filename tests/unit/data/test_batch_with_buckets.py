"""Batches of several shapes: a sample gets what is its slot's, whatever the micro-batches; SDXL is told true sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dreambooth_resume.data.batch import Batch, BatchBuilder, LatentSize, MicroBatch
from dreambooth_resume.data.buckets import Bucket, nearest_bucket
from dreambooth_resume.data.cache import Cache
from dreambooth_resume.data.dataset import PictureSet, scan_pictures
from dreambooth_resume.data.draws import Draws, Timesteps
from dreambooth_resume.data.plan import Plan, Slot
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.data.samples import LatentSource, PixelSource, SampleSource, latent_variants
from dreambooth_resume.data.transforms import CropOptions, FloatArray, resized_size, variant_crop
from tests.fakes.memory_storage import MemoryStorage

from .conftest import DrawPicture

SEED = 11
BUCKETS = (Bucket(height=32, width=32), Bucket(height=24, width=40), Bucket(height=40, width=24))
CROPS = CropOptions(resolution=32, center_crop=False, random_flip=True)
SIZES = [(40, 66), (50, 50), (90, 50), (33, 30), (60, 100), (45, 70)]


@pytest.fixture
def pictures(pictures_folder: Path, draw: DrawPicture) -> PictureSet:
    for number, (width, height) in enumerate(SIZES):
        draw(f"{number}.png", width, height, seed=number)
    return scan_pictures(pictures_folder, prompt="a photo of sks dog")


@pytest.fixture
def plan(pictures: PictureSet) -> Plan:
    """Five pictures and a class picture, four samples a step in blocks of two."""
    buckets = tuple(nearest_bucket(one.width, one.height, BUCKETS) for one in pictures.pictures[:5])
    return Plan(seed=SEED, picture_count=5, batch_size=4, block_size=2, buckets=buckets, class_count=1)


def builder(plan: Plan, pictures: PictureSet, source: SampleSource, *, micro_batch_size: int) -> BatchBuilder:
    return BatchBuilder(
        plan,
        pictures,
        source,
        micro_batch_size=micro_batch_size,
        latents=LatentSize(channels=4, pixels_per_latent=8, resolution=32),
        draws=Draws(timesteps=Timesteps(end=1000)),
    )


def pixel_source(pictures: PictureSet) -> PixelSource:
    return PixelSource(pictures.pictures, seed=SEED, crops=CROPS, interpolation="lanczos")


def encode(pixels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Stands for the VAE: block means, four channels of them."""
    _, height, width = pixels.shape
    mean = pixels.reshape(3, height // 8, 8, width // 8, 8).mean(axis=(2, 4))
    mean = np.concatenate([mean, mean[:1]])
    return mean, -mean


def rows(plan: Plan, batch: Batch) -> dict[tuple[int, bool], dict[str, torch.Tensor]]:
    """What each sample got, by its slot; noise tells which slot a row is of."""
    found = {}
    slots = {(slot.slot, slot.is_class): slot for slot in (*plan.batch(batch.step), *plan.class_batch(batch.step))}
    for part in batch.micro_batches:
        for row in range(len(part.timesteps)):
            key = next(key for key, slot in slots.items() if is_noise_of(slot, part.noise[row]))
            names = ("pixels", "mean", "logvar", "vae_noise", "noise", "timesteps", "time_ids")
            values = {name: getattr(part, name) for name in names}
            found[key] = {name: value[row] for name, value in values.items() if value is not None}
    assert found.keys() == slots.keys()
    return found


def is_noise_of(slot: Slot, noise: torch.Tensor) -> bool:
    assert slot.bucket is not None
    rng = generator(SEED, Stream.NOISE, step=slot.step, slot=slot.slot, draw=int(slot.is_class))
    shape = (4, slot.bucket.height // 8, slot.bucket.width // 8)
    return noise.shape == shape and bool((noise.numpy() == rng.standard_normal(shape, dtype=np.float32)).all())


@pytest.mark.parametrize("step", range(4))
def test_every_sample_has_the_same_numbers_in_any_portions(step: int, plan: Plan, pictures: PictureSet) -> None:
    source = pixel_source(pictures)
    expected = rows(plan, builder(plan, pictures, source, micro_batch_size=2)(step))
    for size in (1, 4):
        other = rows(plan, builder(plan, pictures, source, micro_batch_size=size)(step))
        for key, values in expected.items():
            assert all(torch.equal(values[name], other[key][name]) for name in values)


def test_a_micro_batch_has_one_shape_and_its_class_pictures_have_it_too(plan: Plan, pictures: PictureSet) -> None:
    shapes = set()
    for step in range(6):
        for part in builder(plan, pictures, pixel_source(pictures), micro_batch_size=2)(step).micro_batches:
            assert part.pixels is not None
            assert len(part.pixels) == 2 * part.slots <= 4
            _, _, height, width = part.pixels.shape
            assert part.noise.shape == part.vae_noise.shape == (2 * part.slots, 4, height // 8, width // 8)
            assert part.time_ids[:, 4:].tolist() == [[height, width]] * (2 * part.slots)
            shapes.add((height, width))
    assert shapes == {(one.height, one.width) for one in BUCKETS}


def test_time_ids_are_the_files_size_the_crop_and_the_bucket(plan: Plan, pictures: PictureSet) -> None:
    for step in range(4):
        found = rows(plan, builder(plan, pictures, pixel_source(pictures), micro_batch_size=2)(step))
        for slot in (*plan.batch(step), *plan.class_batch(step)):
            bucket, picture = slot.bucket, pictures.pictures[slot.picture]
            assert bucket is not None
            ids = found[slot.slot, slot.is_class]["time_ids"].tolist()
            assert ids[:2] == [picture.height, picture.width]
            assert ids[4:] == [bucket.height, bucket.width]
            # Resized by one factor until both sides are covered; only the side that is too long has room.
            factor = max(bucket.height / picture.height, bucket.width / picture.width)
            assert 0 <= ids[2] <= picture.height * factor - bucket.height + 1e-6
            assert 0 <= ids[3] <= picture.width * factor - bucket.width + 1e-6


def test_cached_latents_are_those_of_the_slots_variant_and_shape(plan: Plan, pictures: PictureSet) -> None:
    steps = range(6)
    cache = Cache(MemoryStorage())
    variants = latent_variants(
        pictures.pictures,
        plan.variants_used(steps),
        seed=SEED,
        crops=CROPS,
        interpolation="lanczos",
        encoder="vae",
        encode=encode,
    )
    source = LatentSource(pictures.pictures, variants, cache=cache)
    cache.fill(source.entries, should_stop=lambda: False, on_progress=lambda done, total: None)
    for step in steps:
        for part in builder(plan, pictures, source, micro_batch_size=2)(step).micro_batches:
            assert part.mean is not None
            assert part.mean.shape == part.noise.shape
    # The class picture is there in every shape that it rode in.
    ridden = {slot.bucket for step in steps for slot in plan.class_batch(step)}
    assert {use.bucket for use in variants if use.picture == 5} == ridden
    assert len(ridden) > 1


def test_a_squares_latents_have_the_address_that_they_have_without_buckets(pictures: PictureSet) -> None:
    square = Bucket(height=32, width=32)
    keys = []
    for bucket in (square, None, BUCKETS[1]):
        plan = Plan(seed=0, picture_count=1, batch_size=1, buckets=(bucket,) if bucket else ())
        used = plan.variants_used(range(1))
        made = latent_variants(
            pictures.pictures, used, seed=0, crops=CROPS, interpolation="lanczos", encoder="vae", encode=encode
        )
        keys.append(made[used[0]].entry.key)
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bucket", BUCKETS, ids=str)
def test_a_picture_is_resized_until_it_just_covers_its_bucket(size: tuple[int, int], bucket: Bucket) -> None:
    width, height = size
    new_height, new_width = resized_size(height, width, bucket)
    assert new_height >= bucket.height
    assert new_width >= bucket.width
    assert new_height == bucket.height or new_width == bucket.width
    assert abs(new_height / height - new_width / width) <= 1 / min(height, width)


def test_crops_reach_every_place_of_the_longer_side(pictures: PictureSet) -> None:
    picture = pictures.pictures[0]  # 40 x 66, so 32 x 52 before it is cut to a square
    crops = {variant_crop(picture, number, seed=0, options=CROPS, bucket=BUCKETS[0]).top for number in range(400)}
    assert crops == set(range(int(32 * 66 / 40) - 32 + 1))


def part_sizes(batch: Batch) -> list[int]:
    return [part.slots for part in batch.micro_batches]


def test_larger_portions_join_blocks_of_one_shape(pictures: PictureSet) -> None:
    """A run that began with one sample at once may be resumed with four: what has one shape is computed together."""
    buckets = (BUCKETS[0], BUCKETS[0], BUCKETS[1], BUCKETS[1])
    plan = Plan(seed=1, picture_count=4, batch_size=4, buckets=buckets)
    built = builder(plan, pictures, pixel_source(pictures), micro_batch_size=4)
    assert all(part_sizes(built(step)) == [2, 2] for step in range(5))
    first: MicroBatch = built(0).micro_batches[0]
    assert first.class_weight is None
