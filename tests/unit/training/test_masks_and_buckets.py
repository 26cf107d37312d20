"""A step of masked pictures in buckets, with class pictures, against a plain computation of each sample by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline
from PIL import Image

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.data.batch import Batch, BatchBuilder, LatentSize
from dreambooth_resume.data.buckets import Bucket, nearest_bucket
from dreambooth_resume.data.dataset import Picture, PictureSet, scan_pictures
from dreambooth_resume.data.draws import Draws, Timesteps
from dreambooth_resume.data.plan import Plan, Slot
from dreambooth_resume.data.random import Stream, generator
from dreambooth_resume.data.samples import Masking, PixelSource
from dreambooth_resume.data.transforms import CropOptions, free_crop
from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.lora import add_lora
from dreambooth_resume.models.lora_layers import LoraSpec
from dreambooth_resume.models.source import ModelSource
from dreambooth_resume.training.latents import held_out_slots
from dreambooth_resume.training.objective import Objective, denoising_loss, region_weights
from dreambooth_resume.training.step import TrainableModel, prompt_table, train_step
from tests.fakes.optimizers import one_group

CPU = torch.device("cpu")
SEED, PROMPT, CLASS_WEIGHT, UNMASKED = 5, "a photo of sks robot", 0.5, 0.25
CROPS = CropOptions(resolution=64, center_crop=False, random_flip=True)
BUCKETS = (Bucket(height=64, width=64), Bucket(height=48, width=80), Bucket(height=80, width=48))
SIZES = ((90, 160), (100, 100), (170, 96), (100, 110), (96, 160))
PLAN = Plan(
    seed=SEED,
    picture_count=4,
    batch_size=4,
    block_size=2,
    buckets=tuple(nearest_bucket(width, height, BUCKETS) for width, height in SIZES[:4]),
    class_count=1,
)


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def pictures(tmp_path: Path) -> PictureSet:
    """Noise, with a round mask for all but the second; the last is the class picture."""
    for number, (width, height) in enumerate(SIZES):
        values = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
        if number != 1:
            y, x = np.mgrid[:height, :width]
            inside = (x - width / 3) ** 2 + (y - height / 2) ** 2 < (width / 4) ** 2
            Image.fromarray((inside * 255).astype(np.uint8)).save(tmp_path / f"{number}-mask.png")
    return scan_pictures(tmp_path, prompt=PROMPT, masks=True)


def build_model(source: ModelSource) -> TrainableModel:
    family = family_named(source.family)
    denoiser = family.load_denoiser(source, device=CPU, weight_dtype=torch.float32, gradient_checkpointing=False)
    encoders = family.encoders(source, device=CPU)
    return TrainableModel(
        denoiser=denoiser,
        parameters=add_lora(
            denoiser, LoraSpec(rank=4, alpha=4), normal_draw=lambda number, shape: np.full(shape, 0.1, np.float32)
        ),
        prompts=prompt_table([encoders.encode_prompt(PROMPT)], denoiser=denoiser, device=CPU),
        accelerator=Accelerator(cpu=True, mixed_precision="no"),
        encode_pixels=encoders.encode_pixels,
        objective=Objective(unmasked_weight=UNMASKED),
    )


def batch_of(step: int, pictures: PictureSet, *, micro_batch_size: int) -> Batch:
    source = PixelSource(
        pictures.pictures, seed=SEED, crops=CROPS, interpolation="lanczos", masking=Masking(pixels_per_latent=8)
    )
    build = BatchBuilder(
        PLAN,
        pictures,
        source,
        micro_batch_size=micro_batch_size,
        latents=LatentSize(channels=4, pixels_per_latent=8, resolution=64),
        draws=Draws(timesteps=Timesteps(end=1000)),
        class_weight=CLASS_WEIGHT,
    )
    return build(step)


def plain_loss(source: ModelSource, model: TrainableModel, pictures: PictureSet, step: int) -> float:
    """Each sample alone: Pillow, Diffusers' VAE, scheduler and time ids, and a weighted mean written out."""
    vae = AutoencoderKL.from_pretrained(source.folder, subfolder="vae")
    pipe = StableDiffusionXLPipeline.from_pretrained(source.folder)
    scheduler = DDPMScheduler.from_pretrained(source.folder, subfolder="scheduler")
    embeds, pooled = model.prompts.embeddings(torch.tensor([0]))

    def sample_loss(slot: Slot) -> float:
        assert slot.bucket is not None
        picture = pictures.pictures[slot.picture]
        crop = free_crop(picture, slot, seed=SEED, options=CROPS)
        box = (crop.left, crop.top, crop.left + slot.bucket.width, crop.top + slot.bucket.height)

        def cut(path: Path, filtering: Image.Resampling) -> np.ndarray:
            image = Image.open(path).resize((crop.resized_width, crop.resized_height), filtering)
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flip else image
            return np.asarray(image.crop(box), dtype=np.float64)

        pixels = torch.from_numpy(cut(picture.path, Image.Resampling.LANCZOS) / 127.5 - 1).permute(2, 0, 1).float()
        shape = (4, slot.bucket.height // 8, slot.bucket.width // 8)

        def normal(stream: Stream) -> torch.Tensor:
            rng = generator(SEED, stream, step=slot.step, slot=slot.slot, draw=int(slot.is_class))
            return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))[None]

        timestep = generator(SEED, Stream.TIMESTEP, step=slot.step, slot=slot.slot, draw=int(slot.is_class))
        timesteps = torch.tensor([int(timestep.integers(1000))])
        with torch.no_grad():
            distribution = vae.encode(pixels[None]).latent_dist
            latents = (distribution.mean + distribution.std * normal(Stream.VAE)) * vae.config.scaling_factor
            noise = normal(Stream.NOISE)
            ids = pipe._get_add_time_ids(
                (picture.height, picture.width), (crop.top, crop.left), (slot.bucket.height, slot.bucket.width),
                torch.float32, text_encoder_projection_dim=pooled.shape[-1],
            )  # fmt: skip
            prediction = model.denoiser.module(
                scheduler.add_noise(latents, noise, timesteps),
                timesteps,
                embeds,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": ids},
                return_dict=False,
            )[0]
        errors = ((prediction - noise) ** 2)[0].double().numpy()
        weights = np.ones(shape[1:])
        if not slot.is_class and picture.mask_path is not None:
            mask = cut(picture.mask_path, Image.Resampling.BILINEAR) / 255
            weights = np.maximum(mask.reshape(shape[1], 8, shape[2], 8).mean(axis=(1, 3)), UNMASKED)
        return float((errors * weights).sum() / (4 * weights.sum()))

    own = [sample_loss(slot) for slot in PLAN.batch(step)]
    ridden = [sample_loss(slot) for slot in PLAN.class_batch(step)]
    return float(np.mean(own) + CLASS_WEIGHT * np.mean(ridden))


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_the_loss_is_the_plain_one_in_any_portions(
    micro_batch_size: int, tiny_source: ModelSource, pictures: PictureSet
) -> None:
    assert pictures.masked == 4
    assert len({slot.bucket for slot in PLAN.batch(1)}) > 1
    model = build_model(tiny_source)
    expected = plain_loss(tiny_source, model, pictures, 1)
    batch = batch_of(1, pictures, micro_batch_size=micro_batch_size)
    metrics = train_step(model, batch, optimizer=one_group(model.parameters), max_grad_norm=1.0)
    assert metrics.loss == pytest.approx(expected, rel=1e-5)


def test_what_lies_outside_the_mask_counts_by_its_weight() -> None:
    mask = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])
    weights = region_weights(mask, unmasked_weight=0.2)
    torch.testing.assert_close(weights[0, 0], torch.tensor([[1.0, 0.2], [0.2, 0.2]]) / 0.4)
    assert torch.equal(weights[1], torch.ones(1, 2, 2))
    prediction, target = torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    errors = (prediction - target) ** 2
    by_hand = [(errors[0] * weights[0]).mean(), errors[1].mean()]
    loss = denoising_loss(prediction, target, regions_B1HW=weights)
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())
    weighted = denoising_loss(prediction, target, torch.tensor([2.0, 0.5]), regions_B1HW=weights)
    torch.testing.assert_close(weighted, (2 * by_hand[0] + 0.5 * by_hand[1]) / 2)


def test_a_crop_that_shows_nothing_of_the_mask_counts_nothing_and_is_a_number() -> None:
    weights = region_weights(torch.zeros(1, 2, 2), unmasked_weight=0.0)
    assert torch.equal(weights, torch.zeros(1, 1, 2, 2))
    prediction = torch.randn(1, 4, 2, 2, requires_grad=True)
    denoising_loss(prediction, torch.zeros(1, 4, 2, 2), regions_B1HW=weights).backward()  # type: ignore[no-untyped-call]
    assert prediction.grad is not None
    assert torch.equal(prediction.grad, torch.zeros_like(prediction))


@pytest.mark.parametrize(
    ("words", "is_new", "shapes"),
    [
        (["--use_aspect_ratio_buckets"], True, [Bucket(height=32, width=32), Bucket(height=40, width=24)]),
        (["--use_aspect_ratio_buckets"], False, [None, None]),
        (["--no-use_aspect_ratio_buckets"], True, [None, None]),
    ],
)
def test_a_held_out_picture_has_the_shape_in_which_it_would_be_trained(
    words: list[str], is_new: bool, shapes: list[Bucket | None]
) -> None:
    typed = "--pretrained_model_name_or_path model --instance_data_dir pictures --instance_prompt dog --resolution 32"
    pictures = [
        Picture(name=str(width), path=Path(), sha256="", size_bytes=0, width=width, height=height, prompt="")
        for width, height in ((100, 90), (60, 100))
    ]
    assignment = SimpleNamespace(
        options=resolve(parse_train([*typed.split(), *words]), recorded=None),
        held_out=PictureSet(pictures=tuple(pictures)),
        held_out_in_buckets=is_new,
    )
    slots = held_out_slots(assignment)  # type: ignore[arg-type]
    assert [slot.bucket for slot in slots] == shapes
    assert [slot.picture for slot in slots] == [0, 1]
