"""What a first start decides where nothing was said."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.dataset import Picture, PictureSet
from dreambooth_resume.errors import BadInput
from dreambooth_resume.workflows.first_start import (
    decided,
    refuse_masks_that_are_not_there,
    remark_on_squares,
    with_buckets_decided,
)

pytestmark = pytest.mark.quick

REQUIRED = ["--pretrained_model_name_or_path", "model", "--instance_data_dir", "pictures", "--instance_prompt", "a dog"]
SQUARE, PORTRAIT = (990, 1000), (3000, 4000)


def options(*words: str) -> TrainOptions:
    return resolve(parse_train([*REQUIRED, *words]), recorded=None)


def pictures(*sizes: tuple[int, int], mask: str | None = None) -> PictureSet:
    return PictureSet(
        pictures=tuple(
            Picture(
                name=f"{number}.png", path=Path("x"), sha256="0" * 64, size_bytes=1, width=width, height=height,
                prompt="p", mask_sha256=mask,
            )
            for number, (width, height) in enumerate(sizes)
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sizes", "expected"),
    [
        ((), (SQUARE, PORTRAIT), True),
        ((), (PORTRAIT, PORTRAIT), False),
        ((), (SQUARE, (1000, 1000)), False),
        (("--aspect_ratio_buckets", "1024,1024;1216,832"), (SQUARE, SQUARE), True),
        (("--aspect_ratio_buckets", "1024,1024"), (SQUARE, PORTRAIT), True),
        (("--no-use_aspect_ratio_buckets",), (SQUARE, PORTRAIT), False),
        (("--use_aspect_ratio_buckets",), (SQUARE, SQUARE), True),
    ],
)
def test_pictures_of_several_shapes_have_buckets(
    words: tuple[str, ...], sizes: tuple[tuple[int, int], ...], expected: bool
) -> None:
    found = with_buckets_decided(options(*words), pictures(*sizes), as_before=False)
    assert found.data.use_aspect_ratio_buckets is expected


def test_a_run_that_goes_on_from_diffusers_script_keeps_its_squares_unless_told() -> None:
    mixed = pictures(SQUARE, PORTRAIT)
    assert with_buckets_decided(options(), mixed, as_before=True).data.use_aspect_ratio_buckets is False
    told = with_buckets_decided(options("--use_aspect_ratio_buckets"), mixed, as_before=True)
    assert told.data.use_aspect_ratio_buckets is True


def test_portraits_that_are_cut_to_squares_are_told_so() -> None:
    assert "All pictures belong in 896x1152" in remark_on_squares(options(), pictures(PORTRAIT, PORTRAIT))
    assert remark_on_squares(options(), pictures(SQUARE)) == ""
    assert remark_on_squares(options(), pictures(SQUARE, PORTRAIT)) == ""


def test_a_seed_is_drawn_and_no_masks_are_written_out() -> None:
    first, second = decided(options()), decided(options())
    assert first.training.seed is not None
    assert first.training.seed != second.training.seed
    assert first.loss.masked_training is False
    given = options("--seed", "7", "--masked_training")
    assert (decided(given).training, decided(given).loss) == (given.training, given.loss)


def test_masked_training_without_any_mask_is_refused() -> None:
    masked = options("--masked_training")
    with pytest.raises(BadInput, match="none of the 2 pictures has a mask"):
        refuse_masks_that_are_not_there(masked, {}, pictures(SQUARE, SQUARE))
    refuse_masks_that_are_not_there(masked, {}, pictures(SQUARE, mask="1" * 64))
    refuse_masks_that_are_not_there(options(), {}, pictures(SQUARE))
