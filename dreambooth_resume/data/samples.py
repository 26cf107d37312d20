"""What one slot of the plan yields: its latents from the cache, or its pixels, to be encoded at the step.

Shapes: C channels, H and W of the pixels, h and w of the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dreambooth_resume.data.augment import recipe_of
from dreambooth_resume.data.buckets import Bucket
from dreambooth_resume.data.cache import Arrays, Cache, Entry
from dreambooth_resume.data.dataset import Picture
from dreambooth_resume.data.masks import load_mask
from dreambooth_resume.data.plan import Slot, Use
from dreambooth_resume.data.transforms import (
    PIXELS_VERSION,
    Crop,
    CropOptions,
    FloatArray,
    free_crop,
    load_pixels,
    time_ids,
    variant_crop,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A slot's picture: `time_ids` [6], and `pixels` [3, H, W] in [-1, 1] or `mean` and `logvar` [C, h, w].

    `mask` [h, w] in 0..1, where there are masks: which part of it is trained. Class pictures have none.
    """

    time_ids: FloatArray
    pixels: FloatArray | None = None
    mean: FloatArray | None = None
    logvar: FloatArray | None = None
    mask: FloatArray | None = None


class SampleSource(Protocol):
    """Slot → sample, a pure function that several threads may call."""

    def __call__(self, slot: Slot) -> Sample: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """Whether pictures are trained by their masks, averaged to one number for so many pixels along a side."""

    pixels_per_latent: int | None = None
    """None: no masks."""

    def of(self, slot: Slot, picture: Picture, crop: Crop) -> FloatArray | None:
        if self.pixels_per_latent is None or slot.is_class:
            return None
        return load_mask(picture, crop, pixels_per_latent=self.pixels_per_latent)


NO_MASKS = Masking()


class PixelSource:
    """Reads and crops the picture at every step, with a crop of each sample's own."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        *,
        seed: int,
        crops: CropOptions,
        interpolation: str,
        masking: Masking = NO_MASKS,
    ) -> None:
        self._pictures = pictures
        self._masking = masking
        self._seed = seed
        self._crops = crops
        self._interpolation = interpolation

    def __call__(self, slot: Slot) -> Sample:
        picture = self._pictures[slot.picture]
        crop = free_crop(picture, slot, seed=self._seed, options=self._crops)
        return Sample(
            pixels=load_pixels(picture, crop, interpolation=self._interpolation),
            time_ids=time_ids(picture, crop),
            mask=self._masking.of(slot, picture, crop),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A picture's crop with the cache entry of its latents."""

    crop: Crop
    entry: Entry


class LatentSource:
    """Takes the latents' distribution from the cache; `entries` have to be filled in before it is called."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        variants: Mapping[Use, Variant],
        *,
        cache: Cache,
        masking: Masking = NO_MASKS,
    ) -> None:
        self._masking = masking
        self._pictures = pictures
        self._variants = variants
        self._cache = cache

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What the cache must hold: each crop once, though several variants may have the same."""
        return tuple({variant.entry.key: variant.entry for variant in self._variants.values()}.values())

    def __call__(self, slot: Slot) -> Sample:
        variant = self._variants[slot.use]
        arrays = self._cache.arrays(variant.entry)
        picture = self._pictures[slot.picture]
        return Sample(
            mean=arrays["mean"],
            logvar=arrays["logvar"],
            time_ids=time_ids(picture, variant.crop),
            mask=self._masking.of(slot, picture, variant.crop),
        )


def latent_variants(
    pictures: Sequence[Picture],
    used: Sequence[Use],
    *,
    seed: int,
    crops: CropOptions,
    interpolation: str,
    encoder: str,
    encode: Callable[[FloatArray], tuple[FloatArray, FloatArray]],
) -> dict[Use, Variant]:
    """The crops and cache entries of what is `used` (from `Plan.variants_used`).

    `encoder` is the digest of the VAE's weights and configuration; `encode` takes pixels [3, H, W] to (mean, logvar).
    """

    def variant(picture: Picture, number: int, bucket: Bucket | None) -> Variant:
        crop = variant_crop(picture, number, seed=seed, options=crops, bucket=bucket)

        def encode_crop() -> Arrays:
            pixels = load_pixels(picture, crop, interpolation=interpolation)
            mean, logvar = encode(pixels)
            return {"mean": mean, "logvar": logvar}

        recipe = {
            "kind": "latents",
            "encoder": encoder,
            "picture": picture.sha256,
            "pixels": PIXELS_VERSION,
            # A square's address is the same with and without buckets, and that of runs from before there were any.
            "resolution": crop.target.width if crop.target.is_square else [crop.target.height, crop.target.width],
            "interpolation": interpolation,
            "resized": [crop.resized_height, crop.resized_width],
            "top_left": [crop.top, crop.left],
            "flip": crop.flip,
            **recipe_of(crop.change),
        }
        return Variant(crop=crop, entry=Entry(label=picture.name, recipe=recipe, encode=encode_crop))

    return {use: variant(pictures[use.picture], use.variant, use.bucket) for use in used}


def prompt_entry(
    prompt: str,
    *,
    encoder: str,
    encode: Callable[[str], tuple[FloatArray, FloatArray]],
    clip_skip: int | None = None,
) -> Entry:
    """The cache entry of a prompt: arrays `prompt_embeds` [tokens, width] and `pooled` [width].

    `encoder` is the digest of all text encoders and tokenizers; `encode` takes the prompt to (prompt_embeds, pooled),
    leaving out `clip_skip` more layers than usual.
    """

    def encode_prompt() -> Arrays:
        prompt_embeds, pooled = encode(prompt)
        return {"prompt_embeds": prompt_embeds, "pooled": pooled}

    # Left out where it isn't used, so that what is in the cache already keeps its key.
    skipped = {"clip_skip": clip_skip} if clip_skip else {}
    recipe = {"kind": "prompt", "encoder": encoder, "prompt": prompt, **skipped}
    return Entry(label=f'prompt "{prompt}"', recipe=recipe, encode=encode_prompt)
