"""The pixels are those of Diffusers' script, and a crop is a function of what it hangs on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreambooth_resume.data.buckets import Bucket
from dreambooth_resume.data.dataset import Picture, scan_pictures
from dreambooth_resume.data.plan import Slot
from dreambooth_resume.data.transforms import (
    INTERPOLATIONS,
    Crop,
    CropOptions,
    FloatArray,
    free_crop,
    load_pixels,
    resized_size,
    time_ids,
    variant_crop,
)
from dreambooth_resume.errors import RefusedToGoOn

from .conftest import DrawPicture

FREE = CropOptions(resolution=32, center_crop=False, random_flip=True)
SQUARE = Bucket(height=32, width=32)
CENTRE = CropOptions(resolution=32, center_crop=True, random_flip=False)
# torchvision.transforms.functional: pil_modes_mapping
TORCHVISION_CODES = {
    "nearest": 0, "nearest_exact": 0, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5, "lanczos": 1,
}  # fmt: skip


def slot_of(step: int, slot: int, *, is_class: bool = False) -> Slot:
    return Slot(step=step, slot=slot, picture=0, variant=0, is_class=is_class)


@pytest.fixture
def picture(pictures_folder: Path, draw: DrawPicture) -> Picture:
    draw("dog.png", 71, 45)
    return scan_pictures(pictures_folder, prompt="p").pictures[0]


def script_pixels(path: Path, resolution: int, code: int, *, flip: bool, top: int, left: int) -> FloatArray:
    """`DreamBoothDataset.__init__` for one image, each torchvision call replaced by what it does to a Pillow image."""
    image = Image.open(path).convert("RGB")
    short, long = sorted(image.size)
    new_long = int(resolution * long / short)
    size = (resolution, new_long) if image.width <= image.height else (new_long, resolution)
    image = image.resize(size, Image.Resampling(code))
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.crop((left, top, left + resolution, top + resolution))
    # ToTensor, then Normalize([0.5], [0.5])
    tensor = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    result: FloatArray = tensor.sub_(0.5).div_(0.5).numpy()
    return result


@pytest.mark.parametrize("interpolation", list(INTERPOLATIONS))
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_equal_the_scripts_bit_for_bit(picture: Picture, interpolation: str, flip: bool) -> None:
    crop = Crop(resized_height=32, resized_width=50, top=0, left=7, flip=flip, target=SQUARE)
    pixels = load_pixels(picture, crop, interpolation=interpolation)
    expected = script_pixels(picture.path, 32, TORCHVISION_CODES[interpolation], flip=flip, top=0, left=7)
    assert pixels.dtype == np.float32
    assert pixels.shape == (3, 32, 32)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, expected)


def test_all_256_values_map_to_minus_one_to_one_as_torch_does() -> None:
    values = np.arange(256, dtype=np.uint8)
    expected = torch.arange(256, dtype=torch.uint8).to(torch.float32).div(255).sub(0.5).div(0.5).numpy()
    ours = (values.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    np.testing.assert_array_equal(ours, expected)
    assert (ours.min(), ours.max()) == (-1, 1)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 100), (32, 32)), ((45, 71), (32, 50)), ((71, 45), (50, 32)), ((3, 4), (32, 42)), ((32, 33), (32, 33))],
)
def test_shorter_side_meets_the_resolution(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, SQUARE) == expected


@pytest.mark.parametrize(("width", "left"), [(32, 0), (33, 0), (34, 1), (35, 2), (37, 2), (39, 4)])
def test_centre_crop_rounds_like_the_script(picture: Picture, width: int, left: int) -> None:
    """`int(round((width - resolution) / 2.0))`: a half goes to the even neighbour."""
    wide = variant_crop(replace(picture, width=width, height=32), 0, seed=0, options=CENTRE)
    tall = variant_crop(replace(picture, width=32, height=width), 0, seed=0, options=CENTRE)
    assert (wide.top, wide.left) == (0, left)
    assert (tall.top, tall.left) == (left, 0)


def test_variants_of_a_picture_stay_the_same_wherever_it_stands(picture: Picture) -> None:
    """They hang on its content: neither another name nor other pictures beside it change its latents."""
    crops = [variant_crop(picture, number, seed=1, options=FREE) for number in range(8)]
    moved = replace(picture, name="zz.png", path=Path("elsewhere"), prompt="other")
    assert [variant_crop(moved, number, seed=1, options=FREE) for number in range(8)] == crops
    assert len(set(map(str, crops))) > 4


def test_golden_variants() -> None:
    picture = Picture(
        name="a", path=Path("a"), sha256="0123456789abcdef" * 4, size_bytes=1, width=64, height=48, prompt="p"
    )
    crops = [variant_crop(picture, number, seed=0, options=FREE) for number in range(8)]
    assert [(crop.top, crop.left, crop.flip) for crop in crops] == GOLDEN_VARIANTS
    free = [free_crop(picture, slot_of(step, 1), seed=0, options=FREE) for step in range(4)]
    assert [(crop.top, crop.left, crop.flip) for crop in free] == GOLDEN_FREE


GOLDEN_VARIANTS = [
    (0, 1, False),
    (0, 3, False),
    (0, 0, False),
    (0, 8, False),
    (0, 9, False),
    (0, 5, False),
    (0, 8, True),
    (0, 1, False),
]
GOLDEN_FREE = [(0, 2, True), (0, 2, False), (0, 8, False), (0, 4, False)]


def test_a_class_picture_has_a_free_crop_of_its_own(picture: Picture) -> None:
    plain = [free_crop(picture, slot_of(step, 1), seed=0, options=FREE) for step in range(40)]
    ridden = [free_crop(picture, slot_of(step, 1, is_class=True), seed=0, options=FREE) for step in range(40)]
    assert sum(one == other for one, other in zip(plain, ridden, strict=True)) < 10
    assert [(crop.left, crop.flip) for crop in ridden[:4]] == GOLDEN_CLASS_FREE


GOLDEN_CLASS_FREE = [(16, True), (17, True), (3, False), (4, True)]


def test_crops_lie_inside_and_reach_every_place(picture: Picture) -> None:
    crops = [free_crop(picture, slot_of(step, 0), seed=0, options=FREE) for step in range(2000)]
    assert {crop.left for crop in crops} == set(range(50 - 32 + 1))
    assert {crop.top for crop in crops} == {0}
    assert 900 < Counter(crop.flip for crop in crops)[True] < 1100


def test_turning_flips_off_leaves_the_crops_as_they_were(picture: Picture) -> None:
    no_flips = replace(FREE, random_flip=False)
    for number in range(8):
        with_flips = variant_crop(picture, number, seed=0, options=FREE)
        assert variant_crop(picture, number, seed=0, options=no_flips) == replace(with_flips, flip=False)


def test_time_ids_are_original_size_crop_and_target(picture: Picture) -> None:
    ids = time_ids(picture, Crop(resized_height=32, resized_width=50, top=0, left=7, flip=True, target=SQUARE))
    assert ids.dtype == np.float32
    assert ids.tolist() == [45, 71, 0, 7, 32, 32]


def test_a_picture_that_changed_or_went_during_the_run_is_refused(picture: Picture) -> None:
    crop = variant_crop(picture, 0, seed=0, options=FREE)
    Image.new("RGB", (71, 45)).save(picture.path)
    with pytest.raises(RefusedToGoOn, match=r"dog\.png has changed since the run began"):
        load_pixels(picture, crop, interpolation="lanczos")
    picture.path.unlink()
    with pytest.raises(RefusedToGoOn, match=r"dog\.png can't be read any more: No such file"):
        load_pixels(picture, crop, interpolation="lanczos")
