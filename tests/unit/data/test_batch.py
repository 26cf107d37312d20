"""A batch is a function of its step, whatever the micro-batch, the threads and the source of its latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreambooth_resume.data.batch import Batch, BatchBuilder, LatentSize, MicroBatch, samples_checksum
from dreambooth_resume.data.cache import Cache
from dreambooth_resume.data.dataset import PictureSet, scan_pictures
from dreambooth_resume.data.draws import Draws, Timesteps
from dreambooth_resume.data.loader import Loader
from dreambooth_resume.data.plan import Plan, Use
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.data.samples import LatentSource, PixelSource, latent_variants, prompt_entry
from dreambooth_resume.data.transforms import CropOptions, FloatArray, load_pixels, variant_crop
from tests.fakes.memory_storage import MemoryStorage

from .conftest import DrawPicture

CROPS = CropOptions(resolution=32, center_crop=False, random_flip=True)
LATENT_SHAPE = (4, 4, 4)
LATENTS = LatentSize(channels=4, pixels_per_latent=8, resolution=32)
SEED = 11


@pytest.fixture
def pictures(pictures_folder: Path, draw: DrawPicture) -> PictureSet:
    for number in range(3):
        draw(f"{number}.png", 40 + 8 * number, 36, seed=number)
    return scan_pictures(pictures_folder, prompt="a photo of sks dog")


@pytest.fixture
def plan(pictures: PictureSet) -> Plan:
    return Plan(seed=SEED, picture_count=len(pictures.pictures), batch_size=4)


def pixel_source(pictures: PictureSet) -> PixelSource:
    return PixelSource(pictures.pictures, seed=SEED, crops=CROPS, interpolation="lanczos")


def builder(plan: Plan, pictures: PictureSet, source: Any, *, micro_batch_size: int = 4) -> BatchBuilder:
    return BatchBuilder(
        plan,
        pictures,
        source,
        micro_batch_size=micro_batch_size,
        latents=LATENTS,
        draws=Draws(timesteps=Timesteps(end=1000)),
    )


def encode(pixels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Stands for the VAE: block means, four channels of them."""
    mean = pixels.reshape(3, 4, 8, 4, 8).mean(axis=(2, 4))
    mean = np.concatenate([mean, mean[:1]])
    return mean, -mean


def latent_source(pictures: PictureSet, plan: Plan, storage: MemoryStorage, steps: range) -> tuple[LatentSource, Cache]:
    cache = Cache(storage)
    variants = latent_variants(
        pictures.pictures,
        plan.variants_used(steps),
        seed=SEED,
        crops=CROPS,
        interpolation="lanczos",
        encoder="vae-digest",
        encode=encode,
    )
    source = LatentSource(pictures.pictures, variants, cache=cache)
    return source, cache


def tensors(micro_batch: MicroBatch) -> Iterator[tuple[str, torch.Tensor | None]]:
    for field in fields(micro_batch):
        value = getattr(micro_batch, field.name)
        if field.name != "dropout_seed":
            yield field.name, value


def assert_equal(first: Batch, second: Batch) -> None:
    assert (first.step, first.picture_names) == (second.step, second.picture_names)
    for one, other in zip(first.micro_batches, second.micro_batches, strict=True):
        assert one.dropout_seed == other.dropout_seed
        for (name, value), (_, expected) in zip(tensors(one), tensors(other), strict=True):
            assert (value is None) == (expected is None), name
            assert value is None or expected is None or torch.equal(value, expected), name


def test_shapes_and_types_of_pixels(plan: Plan, pictures: PictureSet) -> None:
    batch = builder(plan, pictures, pixel_source(pictures), micro_batch_size=2)(3)
    assert batch.step == 3
    assert batch.picture_names == tuple(pictures.pictures[slot.picture].name for slot in plan.batch(3))
    assert len(batch.micro_batches) == 2
    described = {name: (tuple(t.shape), t.dtype) for name, t in tensors(batch.micro_batches[0]) if t is not None}
    assert described == {
        "pixels": ((2, 3, 32, 32), torch.float32),
        "vae_noise": ((2, 4, 4, 4), torch.float32),
        "noise": ((2, 4, 4, 4), torch.float32),
        "timesteps": ((2,), torch.int64),
        "prompt_index": ((2,), torch.int64),
        "time_ids": ((2, 6), torch.float32),
    }


def test_every_number_is_the_documented_draw(plan: Plan, pictures: PictureSet) -> None:
    micro_batch = builder(plan, pictures, pixel_source(pictures))(5).micro_batches[0]
    for slot in range(4):
        for stream, value in ((Stream.NOISE, micro_batch.noise), (Stream.VAE, micro_batch.vae_noise)):
            draw = generator(SEED, stream, step=5, slot=slot).standard_normal(LATENT_SHAPE, dtype=np.float32)
            np.testing.assert_array_equal(value[slot].numpy(), draw)
        assert micro_batch.timesteps[slot] == generator(SEED, Stream.TIMESTEP, step=5, slot=slot).integers(1000)
    assert micro_batch.dropout_seed == generator(SEED, Stream.DROPOUT, step=5).integers(2**32)


def test_golden_batch(plan: Plan, pictures: PictureSet) -> None:
    micro_batch = builder(plan, pictures, pixel_source(pictures))(0).micro_batches[0]
    assert micro_batch.timesteps.tolist() == GOLDEN_TIMESTEPS
    assert micro_batch.dropout_seed == GOLDEN_DROPOUT_SEED
    assert micro_batch.time_ids.tolist() == GOLDEN_TIME_IDS


GOLDEN_TIMESTEPS = [720, 294, 831, 306]
GOLDEN_DROPOUT_SEED = 2599431596
GOLDEN_TIME_IDS = [[36, 40, 0, 0, 32, 32], [36, 56, 0, 8, 32, 32], [36, 48, 0, 6, 32, 32], [36, 48, 0, 5, 32, 32]]


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_the_shares_of_several_processes_are_the_step_dealt_out_in_turn(
    plan: Plan, pictures: PictureSet, processes: int
) -> None:
    build = builder(plan, pictures, pixel_source(pictures), micro_batch_size=1)
    whole = build(7)
    shares = [build.share(process, processes)(7) for process in range(processes)]
    assert {(share.slots, share.micro_batch_count) for share in shares} == {(4, 4)}
    dealt = [share.micro_batches[turn] for turn in range(4) for share in shares if turn < len(share.micro_batches)]
    assert sum(share.checksum or 0 for share in shares) % 2**32 == whole.checksum
    assert_equal(replace(whole, micro_batches=tuple(dealt)), whole)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_micro_batch_only_cuts_the_step(plan: Plan, pictures: PictureSet, size: int) -> None:
    whole_batch = builder(plan, pictures, pixel_source(pictures))(7)
    whole = whole_batch.micro_batches[0]
    cut = builder(plan, pictures, pixel_source(pictures), micro_batch_size=size)(7)
    parts = cut.micro_batches
    assert cut.checksum == whole_batch.checksum
    for name, value in tensors(whole):
        if value is not None:
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(joined, value), name


def test_the_checksum_tells_other_samples(plan: Plan, pictures: PictureSet) -> None:
    build = builder(plan, pictures, pixel_source(pictures))
    assert build(7).checksum == build(7).checksum
    micro_batch = build(7).micro_batches[0]
    for name in ("timesteps", "prompt_index", "time_ids", "noise", "pixels"):
        value = getattr(micro_batch, name).clone()
        value.view(-1)[0] += 1
        changed = replace(micro_batch, **{name: value})
        assert samples_checksum([changed]) != samples_checksum([micro_batch]), name
    assert len({build(step).checksum for step in range(12)}) == 12


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(plan: Plan, pictures: PictureSet) -> None:
    with pytest.raises(ValueError, match="micro-batches of 3"):
        builder(plan, pictures, pixel_source(pictures), micro_batch_size=3)


@pytest.mark.parametrize(("workers", "prefetch_factor"), [(1, 1), (1, 2), (2, 4), (4, 1), (3, 0)])
def test_workers_and_prefetch_change_nothing(
    plan: Plan, pictures: PictureSet, workers: int, prefetch_factor: int
) -> None:
    compute = builder(plan, pictures, pixel_source(pictures), micro_batch_size=2)
    with Loader(compute, end_step=12, workers=workers, prefetch_factor=prefetch_factor) as loader:
        for step in (0, 1, 2, 3, 7, 8, 2, 3, 11):
            assert_equal(loader[step], compute(step))


def test_cached_latents_are_those_of_the_slots_variant(plan: Plan, pictures: PictureSet) -> None:
    steps = range(3)
    source, cache = latent_source(pictures, plan, MemoryStorage(), steps)
    cache.fill(source.entries, should_stop=lambda: False, on_progress=lambda done, total: None)
    for step in steps:
        micro_batch = builder(plan, pictures, source)(step).micro_batches[0]
        assert micro_batch.pixels is None
        assert micro_batch.mean is not None
        assert micro_batch.logvar is not None
        for slot in plan.batch(step):
            picture = pictures.pictures[slot.picture]
            crop = variant_crop(picture, slot.variant, seed=SEED, options=CROPS)
            mean, logvar = encode(load_pixels(picture, crop, interpolation="lanczos"))
            np.testing.assert_array_equal(micro_batch.mean[slot.slot].numpy(), mean)
            np.testing.assert_array_equal(micro_batch.logvar[slot.slot].numpy(), logvar)
            ids = [picture.height, picture.width, crop.top, crop.left, 32, 32]
            assert micro_batch.time_ids[slot.slot].tolist() == ids


def test_only_what_the_steps_need_is_encoded_and_equal_crops_once(plan: Plan, pictures: PictureSet) -> None:
    source, _ = latent_source(pictures, plan, MemoryStorage(), range(2))
    assert len(source.entries) <= 8
    every, _ = latent_source(pictures, plan, MemoryStorage(), range(1000))
    assert 3 * 2 < len(every.entries) <= 3 * 8
    centred = latent_variants(
        pictures.pictures,
        plan.variants_used(range(1000)),
        seed=SEED,
        crops=replace(CROPS, center_crop=True, random_flip=False),
        interpolation="lanczos",
        encoder="vae-digest",
        encode=encode,
    )
    assert len(LatentSource(pictures.pictures, centred, cache=Cache(MemoryStorage())).entries) == 3


FIRST = Use(picture=0, variant=0)


def latent_key(pictures: PictureSet, **changed: Any) -> str:
    options: dict[str, Any] = {
        "seed": 0,
        "crops": CropOptions(resolution=32, center_crop=True, random_flip=False),
        "interpolation": "lanczos",
        "encoder": "vae-digest",
        "encode": encode,
    }
    return latent_variants(pictures.pictures, [FIRST], **{**options, **changed})[FIRST].entry.key


def test_a_latents_address_changes_with_everything_that_decides_it(pictures: PictureSet) -> None:
    other_picture = PictureSet(pictures=pictures.pictures[1:])
    wider = CropOptions(resolution=40, center_crop=True, random_flip=False)
    keys = [
        latent_key(pictures),
        latent_key(other_picture),
        latent_key(pictures, encoder="another-vae"),
        latent_key(pictures, interpolation="bilinear"),
        latent_key(pictures, crops=wider),
    ]
    assert len(set(keys)) == len(keys)
    assert latent_key(pictures, seed=5) == keys[0]


def test_a_prompts_address_changes_with_text_and_encoder() -> None:
    def encode_text(prompt: str) -> tuple[FloatArray, FloatArray]:
        return np.full((3, 2), len(prompt), np.float32), np.zeros(2, np.float32)

    entries = [
        prompt_entry(prompt, encoder=encoder, encode=encode_text) for prompt in ("a", "b") for encoder in ("x", "y")
    ]
    assert len({entry.key for entry in entries}) == 4
    cache = Cache(MemoryStorage())
    cache.fill(entries, should_stop=lambda: False, on_progress=lambda done, total: None)
    arrays = cache.arrays(entries[0])
    assert arrays["prompt_embeds"].tolist() == [[1, 1]] * 3
    assert arrays["pooled"].tolist() == [0, 0]


def test_prompt_index_counts_in_the_sets_prompts(plan: Plan, pictures: PictureSet) -> None:
    prompts = ["b", "a", "b"]
    mixed = PictureSet(
        pictures=tuple(
            replace(picture, prompt=prompt) for picture, prompt in zip(pictures.pictures, prompts, strict=True)
        )
    )
    indices = {"a": 0, "b": 1}
    micro_batch = builder(plan, mixed, pixel_source(mixed))(0).micro_batches[0]
    expected = [indices[prompts[slot.picture]] for slot in plan.batch(0)]
    assert micro_batch.prompt_index.tolist() == expected
