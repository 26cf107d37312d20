"""Which shapes there are, and which one a picture of a given size gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.data import DataOptions
from dreambooth_resume.data.buckets import (
    Bucket,
    assigned,
    buckets_of,
    nearest_bucket,
    standard_buckets,
    summary,
    wished_buckets,
)
from dreambooth_resume.errors import BadInput

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]
# Podell et al. 2023, appendix I: (height, width) up to the square.
SDXL = {
    (512, 2048), (512, 1984), (512, 1920), (512, 1856), (576, 1792), (576, 1728), (576, 1664), (640, 1600), (640, 1536),
    (704, 1472), (704, 1408), (704, 1344), (768, 1344), (768, 1280), (832, 1216), (832, 1152), (896, 1152), (896, 1088),
    (960, 1088), (960, 1024), (1024, 1024),
}  # fmt: skip
NOT_HERE = {(704, 1344), (832, 1152), (896, 1088), (960, 1024)}


def data_options(*words: str) -> DataOptions:
    return resolve(parse_train([*REQUIRED, *words]), recorded=None).data


def turned(bucket: Bucket) -> Bucket:
    return Bucket(height=bucket.width, width=bucket.height)


def test_the_standard_shapes_are_sdxls() -> None:
    found = {(bucket.height, bucket.width) for bucket in standard_buckets(1024)}
    both_ways = {pair for height, width in SDXL - NOT_HERE for pair in ((height, width), (width, height))}
    assert found == both_ways


@given(st.integers(4, 256).map(lambda eighths: eighths * 8))
def test_shapes_have_at_most_the_squares_area_and_are_there_both_ways(resolution: int) -> None:
    buckets = standard_buckets(resolution)
    step = 64 if resolution >= 512 else max(8, resolution // 64 * 8)
    assert Bucket(height=resolution, width=resolution) in buckets
    assert {turned(bucket) for bucket in buckets} == set(buckets)
    assert list(buckets) == sorted(set(buckets))
    for bucket in buckets:
        assert bucket.height * bucket.width <= resolution**2
        if (bucket.height, bucket.width) != (resolution, resolution):
            assert bucket.height % step == bucket.width % step == 0
            assert resolution / 2 <= min(bucket.height, bucket.width) + step
            assert max(bucket.height, bucket.width) <= 2 * resolution


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1024, 1024), "1024x1024"),
        ((3000, 4000), "896x1152"),
        ((4000, 3000), "1152x896"),
        ((1080, 1920), "768x1344"),
        ((50, 4000), "512x2048"),
        ((31, 30), "1024x1024"),
    ],
)
def test_a_picture_gets_the_shape_nearest_to_its_own(size: tuple[int, int], expected: str) -> None:
    assert str(nearest_bucket(*size, standard_buckets(1024))) == expected


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_a_picture_on_its_side_gets_its_bucket_on_its_side(width: int, height: int) -> None:
    buckets = standard_buckets(512)
    upright = nearest_bucket(width, height, buckets)
    if sum(_as_near(width, height, one, upright) for one in buckets) == 1:
        assert nearest_bucket(height, width, buckets) == turned(upright)


def _as_near(width: int, height: int, one: Bucket, other: Bucket) -> bool:
    """Compared in whole numbers: is `one` no further from the picture than `other`?"""

    def sides(bucket: Bucket) -> tuple[int, int]:
        products = width * bucket.height, height * bucket.width
        return max(products), min(products)

    (large, small), (others_large, others_small) = sides(one), sides(other)
    return large * others_small <= others_large * small


def test_of_equally_near_shapes_the_largest_is_taken() -> None:
    small, large = Bucket(height=512, width=512), Bucket(height=1024, width=1024)
    assert nearest_bucket(7, 7, [small, large]) == nearest_bucket(7, 7, [large, small]) == large


def test_shapes_are_listed_height_first_as_diffusers_scripts_have_them() -> None:
    data = data_options("--aspect_ratio_buckets", " 1216, 832;1024,1024;1216,832; ")
    assert data.aspect_ratio_buckets == "1216,832;1024,1024;1216,832"
    assert wished_buckets(data) == (Bucket(height=1024, width=1024), Bucket(height=1216, width=832))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1024", 'must be "height,width;height,width"'),
        ("1024x1024", 'must be "height,width;height,width"'),
        (";", 'must be "height,width;height,width"'),
        ("1024,1024;-64,64", 'must be "height,width;height,width"'),
        ("1024,1020", "multiples of 8, not 1020"),
        ("16,1024", "sides of at least 32, in multiples of 8, not 16"),
    ],
)
def test_a_list_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        data_options("--aspect_ratio_buckets", text)


def test_a_list_beside_squares_is_refused() -> None:
    with pytest.raises(BadInput, match="lists the shapes of buckets, and use_aspect_ratio_buckets is off"):
        data_options("--aspect_ratio_buckets", "1024,1024", "--no-use_aspect_ratio_buckets")


def test_a_run_that_has_not_decided_has_squares() -> None:
    assert buckets_of(data_options()) is None
    assert buckets_of(data_options("--use_aspect_ratio_buckets")) == standard_buckets(1024)
    assert assigned([(3, 4)], None) == ()


def test_the_line_names_the_fullest_first_and_width_first() -> None:
    found = assigned([(30, 40), (50, 50), (40, 30), (3000, 4000)], standard_buckets(1024))
    assert summary(found) == "3 buckets: 896x1152 (2), 1152x896 (1), 1024x1024 (1)"
    assert summary(found[1:2]) == "1 bucket: 1024x1024 (1)"
