"""Where the samples of a step, and the held-out ones, come from: the cache of latents, or the pictures at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dreambooth_resume.data.augment import NO_CHANGES, limits_of
from dreambooth_resume.data.buckets import assigned, buckets_of
from dreambooth_resume.data.cache import Cache
from dreambooth_resume.data.dataset import Picture
from dreambooth_resume.data.plan import Slot, Use
from dreambooth_resume.data.samples import LatentSource, Masking, PixelSource, SampleSource, Variant, latent_variants
from dreambooth_resume.data.transforms import CropOptions, FloatArray
from dreambooth_resume.models.base import Encoders

if TYPE_CHECKING:
    from dreambooth_resume.training.build import Assignment


def sample_source(assignment: Assignment, cache: Cache, encoders: Encoders) -> SampleSource:
    """What a slot of the plan yields; of a LatentSource the entries have to be filled in."""
    data = assignment.options.data
    crops = CropOptions(
        resolution=data.resolution,
        center_crop=data.center_crop,
        random_flip=data.random_flip,
        limits=limits_of(data),
    )
    pictures = assignment.pictures.pictures
    is_masked = bool(assignment.options.loss.masked_training)
    masking = Masking(pixels_per_latent=assignment.facts.pixels_per_latent if is_masked else None)
    if not data.cache_latents:
        return PixelSource(
            pictures,
            seed=assignment.seed,
            crops=crops,
            interpolation=data.image_interpolation_mode,
            masking=masking,
        )
    used = assignment.plan.variants_used(range(assignment.max_train_steps))
    own = [use for use in used if use.picture < assignment.plan.pictures_in_all]
    ridden = [use for use in used if use.picture >= assignment.plan.pictures_in_all]
    variants = _variants(assignment, pictures, own, crops, encoders=encoders)
    # Class pictures keep the class as the base model has it: other colours would be another class.
    variants |= _variants(assignment, pictures, ridden, replace(crops, limits=NO_CHANGES), encoders=encoders)
    return LatentSource(pictures, variants, cache=cache, masking=masking)


def held_out_slots(assignment: Assignment) -> tuple[Slot, ...]:
    """Each held-out picture once, in the shape that it would be trained in; in runs of earlier releases a square."""
    pictures = assignment.held_out.pictures if assignment.held_out else ()
    buckets = buckets_of(assignment.options.data) if assignment.held_out_in_buckets else None
    shapes = assigned(((picture.width, picture.height) for picture in pictures), buckets)
    return tuple(
        Slot(step=0, slot=0, picture=number, variant=0, bucket=shapes[number] if shapes else None)
        for number in range(len(pictures))
    )


def held_out_source(assignment: Assignment, cache: Cache, encoders: Encoders) -> LatentSource | None:
    """The middles of the held-out pictures, as `held_out_slots` has them."""
    if assignment.held_out is None:
        return None
    pictures = assignment.held_out.pictures
    used = [slot.use for slot in held_out_slots(assignment)]
    crops = CropOptions(resolution=assignment.options.data.resolution, center_crop=True, random_flip=False)
    return LatentSource(pictures, _variants(assignment, pictures, used, crops, encoders=encoders), cache=cache)


def _variants(
    assignment: Assignment,
    pictures: Sequence[Picture],
    used: Sequence[Use],
    crops: CropOptions,
    *,
    encoders: Encoders,
) -> dict[Use, Variant]:
    def encode(pixels_CHW: FloatArray) -> tuple[FloatArray, FloatArray]:
        mean, logvar = encoders.encode_pixels(pixels_CHW)
        return mean.cpu().numpy(), logvar.cpu().numpy()

    return latent_variants(
        pictures,
        used,
        seed=assignment.seed,
        crops=crops,
        interpolation=assignment.options.data.image_interpolation_mode,
        encoder=assignment.family.latents_key(assignment.digests),
        encode=encode,
    )
