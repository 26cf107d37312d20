"""Turned and recoloured pictures: what is drawn, and what it makes of a picture and its mask."""

from __future__ import annotations

import colorsys
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_resume.data.augment import NO_CHANGES, UNCHANGED, Change, Limits, recipe_of, recoloured
from dreambooth_resume.data.buckets import Bucket
from dreambooth_resume.data.dataset import Picture, scan_pictures
from dreambooth_resume.data.masks import load_mask
from dreambooth_resume.data.plan import Slot, Use
from dreambooth_resume.data.samples import latent_variants
from dreambooth_resume.data.transforms import (
    Crop,
    CropOptions,
    FloatArray,
    cut,
    free_crop,
    load_pixels,
    time_ids,
    variant_crop,
)

from .conftest import DrawPicture

LIMITS = Limits(turn=20, brightness=0.2, contrast=0.3, saturation=0.4, hue=0.1)
PLAIN = CropOptions(resolution=32, center_crop=False, random_flip=True)
CHANGED = replace(PLAIN, limits=LIMITS)
WIDE = Bucket(height=24, width=40)
PICTURE = Picture(
    name="a", path=Path("a"), sha256="0123456789abcdef" * 4, size_bytes=1, width=64, height=48, prompt="p"
)


def test_golden_changes() -> None:
    variants = [variant_crop(PICTURE, number, seed=0, options=CHANGED).change for number in range(3)]
    assert [tuple(getattr(one, name) for name in Change.__slots__) for one in variants] == GOLDEN_VARIANTS
    free = free_crop(PICTURE, Slot(step=3, slot=1, picture=0, variant=0), seed=0, options=CHANGED).change
    assert tuple(getattr(free, name) for name in Change.__slots__) == GOLDEN_FREE


GOLDEN_VARIANTS = [
    (-10.68, 0.823, 0.839, 0.969, -0.045),
    (-12.86, 1.141, 0.875, 1.07, -0.024),
    (-12.97, 1.061, 1.12, 1.244, 0.007),
]
GOLDEN_FREE = (-2.19, 0.889, 0.997, 1.068, 0.029)


def test_changes_stay_within_their_limits_reach_them_and_lie_around_nothing() -> None:
    found = [variant_crop(PICTURE, number, seed=0, options=CHANGED).change for number in range(3000)]
    for name, middle, limit in (
        ("turn", 0, 20),
        ("brightness", 1, 0.2),
        ("contrast", 1, 0.3),
        ("saturation", 1, 0.4),
        ("hue", 0, 0.05),
    ):
        values = np.array([getattr(one, name) for one in found]) - middle
        assert np.abs(values).max() <= limit + 1e-9, name
        assert values.max() > 0.99 * limit > -0.99 * limit > values.min(), name
        assert abs(values.mean()) < 0.05 * limit, name


def test_each_option_leaves_the_others_draws_as_they_were() -> None:
    whole = variant_crop(PICTURE, 5, seed=0, options=CHANGED).change
    for name in Limits.__slots__:
        one_less = replace(CHANGED, limits=replace(LIMITS, **{name: 0.0}))
        expected = replace(whole, **{name: getattr(UNCHANGED, name)})
        assert variant_crop(PICTURE, 5, seed=0, options=one_less).change == expected


def test_colours_leave_crops_and_flips_as_they_were_and_class_pictures_have_none() -> None:
    colours = replace(PLAIN, limits=replace(LIMITS, turn=0.0))
    for number in range(8):
        plain, coloured = (variant_crop(PICTURE, number, seed=0, options=one) for one in (PLAIN, colours))
        assert coloured == replace(plain, change=coloured.change) != plain
        ridden = Slot(step=number, slot=0, picture=0, variant=0, is_class=True)
        assert free_crop(PICTURE, ridden, seed=0, options=CHANGED) == free_crop(PICTURE, ridden, seed=0, options=PLAIN)


def test_unchanged_pictures_keep_their_addresses() -> None:
    def recipe(options: CropOptions) -> dict[str, object]:
        use = Use(picture=0, variant=1)
        variants = latent_variants(
            [PICTURE], [use], seed=0, crops=options, interpolation="lanczos", encoder="e", encode=lambda _: _unused()
        )
        return dict(variants[use].entry.recipe)

    plain, changed = recipe(PLAIN), recipe(replace(PLAIN, limits=Limits(hue=0.1)))
    assert "change" not in plain
    assert plain == recipe(replace(PLAIN, limits=NO_CHANGES))
    assert recipe_of(UNCHANGED) == {}
    assert {**plain, "change": changed["change"]} == changed
    assert changed["change"] == {**recipe_of(Change(turn=1))["change"], "turn": 0.0, "hue": -0.024}  # type: ignore[dict-item]


def _unused() -> tuple[FloatArray, FloatArray]:
    raise AssertionError("nothing is encoded here")


@pytest.mark.parametrize("target", [Bucket(height=32, width=32), WIDE, Bucket(height=64, width=32)], ids=str)
@pytest.mark.parametrize("center_crop", [False, True])
def test_no_empty_corner_is_ever_cut_out(target: Bucket, center_crop: bool) -> None:
    image = Image.new("RGB", (64, 48), (255, 255, 255))
    options = CropOptions(resolution=32, center_crop=center_crop, random_flip=True, limits=Limits(turn=180))
    for number in range(150):
        crop = variant_crop(PICTURE, number, seed=0, options=options, bucket=target)
        found = cut(image, crop, Image.Resampling.LANCZOS)
        assert found.size == (target.width, target.height)
        assert found.getextrema() == ((255, 255),) * 3, crop


@pytest.mark.parametrize("degrees", [-35.0, -3.0, 12.34, 90.0])
def test_a_turned_picture_shows_what_lies_there_counter_clockwise(degrees: float) -> None:
    """A slope of grey, so that each pixel says where it came from."""
    slope = np.mgrid[0:100, 0:100].sum(axis=0).astype(np.uint8)
    options = CropOptions(resolution=32, center_crop=True, random_flip=False, limits=Limits(turn=1))
    crop = variant_crop(replace(PICTURE, width=100, height=100), 0, seed=0, options=options)
    crop = replace(crop, resized_height=100, resized_width=100, top=40, left=30, change=Change(turn=degrees))
    found = np.asarray(cut(Image.fromarray(slope), crop, Image.Resampling.BILINEAR)).astype(float)
    rows, columns = np.mgrid[0:32, 0:32] - 15.5
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    source = (columns * cos - rows * sin) + (columns * sin + rows * cos) + 40 + 15.5 + 30 + 15.5
    np.testing.assert_allclose(found, source, atol=1.01)


def test_the_model_is_told_the_corner_of_what_it_sees() -> None:
    """A centred square of a square picture begins at 0, 0; turned, it is a part of it."""
    square = replace(PICTURE, width=64, height=64)
    options = CropOptions(resolution=32, center_crop=True, random_flip=False, limits=Limits(turn=10))
    crop = variant_crop(square, 0, seed=0, options=options)
    assert crop.change.turn != 0
    assert crop.resized_height == crop.resized_width == 32 + 2 * crop.top
    assert time_ids(square, crop).tolist() == [64, 64, crop.top, crop.left, 32, 32]
    assert crop.top == crop.left > 1


def test_a_mask_turns_with_its_picture_and_has_no_colours(pictures_folder: Path, draw: DrawPicture) -> None:
    """The mask is the picture's own brightness, so what is done to one can be seen in the other."""
    y, x = np.mgrid[:96, :120]
    disc = (((x - 50) ** 2 + (y - 40) ** 2 < 900) * 255).astype(np.uint8)
    Image.fromarray(disc).convert("RGB").save(pictures_folder / "dog.png")
    Image.fromarray(disc).save(pictures_folder / "dog-mask.png")
    (picture,) = scan_pictures(pictures_folder, prompt="p", masks=True).pictures
    turning = replace(CHANGED, limits=Limits(turn=60))
    for number in range(6):
        crop = variant_crop(picture, number, seed=0, options=turning, bucket=WIDE)
        mask = load_mask(picture, crop, pixels_per_latent=8)
        pixels = load_pixels(picture, crop, interpolation="bilinear")[0] / 2 + 0.5
        np.testing.assert_allclose(mask, pixels.reshape(3, 8, 5, 8).mean(axis=(1, 3)), atol=1e-6)
        coloured = replace(crop, change=replace(crop.change, brightness=0.5, hue=0.3))
        np.testing.assert_array_equal(load_mask(picture, coloured, pixels_per_latent=8), mask)
        darker = load_pixels(picture, coloured, interpolation="bilinear")[0] / 2 + 0.5
        np.testing.assert_allclose(darker, pixels / 2, atol=0.01)


def test_colours_are_changed_as_the_definitions_say() -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image, exact = Image.fromarray(values), values.astype(float)
    grey = exact @ [0.299, 0.587, 0.114]

    def found(change: Change) -> np.ndarray:
        return np.asarray(recoloured(image, change)).astype(float)

    np.testing.assert_allclose(found(Change(brightness=1.3)), np.clip(exact * 1.3, 0, 255), atol=1)
    by_contrast = np.clip(grey.mean() + 0.6 * (exact - grey.mean()), 0, 255)
    np.testing.assert_allclose(found(Change(contrast=0.6)), by_contrast, atol=1.5)
    by_saturation = np.clip(grey[..., None] + 1.4 * (exact - grey[..., None]), 0, 255)
    np.testing.assert_allclose(found(Change(saturation=1.4)), by_saturation, atol=1.5)
    moved = found(Change(hue=0.25))
    for (red, green, blue), result in zip(exact.reshape(-1, 3)[:200], moved.reshape(-1, 3)[:200], strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
        expected = np.array(colorsys.hsv_to_rgb((hue + 0.25) % 1, saturation, value)) * 255
        np.testing.assert_allclose(result, expected, atol=12)
    assert recoloured(image, UNCHANGED) is image
    assert np.array_equal(found(Change(hue=0.001)), exact), "what moves no hue costs nothing"


def test_a_crop_without_changes_is_the_one_of_before() -> None:
    assert Crop(resized_height=32, resized_width=50, top=0, left=7, flip=False, target=WIDE).change == UNCHANGED
