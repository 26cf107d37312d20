"""Which files are masks, what they make of a picture's latents, and that they are kept with the pictures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_resume.data.buckets import Bucket
from dreambooth_resume.data.captioned import Columns, scan_captioned
from dreambooth_resume.data.dataset import Picture, scan_class_pictures, scan_pictures
from dreambooth_resume.data.fingerprint import dataset_fingerprint
from dreambooth_resume.data.images import UnreadableImageError, alpha_of, decode_mask
from dreambooth_resume.data.inputs import INPUTS_LIST, load_inputs, read_list, store_inputs
from dreambooth_resume.data.mask_files import masks_among
from dreambooth_resume.data.masks import load_mask
from dreambooth_resume.data.plan import Slot
from dreambooth_resume.data.samples import Masking, PixelSource
from dreambooth_resume.data.transforms import Crop, CropOptions, load_pixels
from dreambooth_resume.errors import BadInput, RefusedToGoOn
from tests.fakes.memory_storage import MemoryStorage

from .conftest import DrawPicture

WIDE = Bucket(height=24, width=40)


def save_mask(path: Path, size: tuple[int, int], box: tuple[int, int, int, int]) -> Path:
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    mask.save(path)
    return path


@pytest.fixture
def masked(pictures_folder: Path, draw: DrawPicture) -> Picture:
    """80 x 48, its left half marked."""
    draw("dog.png", 80, 48)
    save_mask(pictures_folder / "dog-mask.png", (80, 48), (0, 0, 40, 48))
    (picture,) = scan_pictures(pictures_folder, prompt="p", masks=True).pictures
    return picture


def test_a_mask_lies_beside_its_picture_and_is_none_itself() -> None:
    names = ["a.jpg", "a-mask.png", "b.png", "b-masklabel.png", "c-mask.png", "d.webp", "sub/d-mask.png", "sub/d.jpg"]
    assert masks_among(names) == {"a.jpg": "a-mask.png", "b.png": "b-masklabel.png", "sub/d.jpg": "sub/d-mask.png"}
    assert masks_among(["a.jpg", "a.png", "A-MASK.PNG", "a-Mask.png"]) == {"a.jpg": "a-Mask.png", "a.png": "a-Mask.png"}


def test_masks_count_as_pictures_only_in_runs_from_before_there_were_any(
    pictures_folder: Path, draw: DrawPicture
) -> None:
    for name in ("a.png", "a-mask.png", "lone-mask.png"):
        draw(name, seed=len(name))

    def names(masks: bool | None) -> list[str]:
        return [one.name for one in scan_pictures(pictures_folder, prompt="p", masks=masks).pictures]

    assert names(None) == ["a-mask.png", "a.png", "lone-mask.png"]
    assert names(False) == names(True) == ["a.png", "lone-mask.png"]
    ridden = scan_class_pictures(pictures_folder, prompt="p", at_most=9, masks=True)
    assert [(one.name, one.mask_sha256) for one in ridden.pictures] == [("a.png", None), ("lone-mask.png", None)]


def test_masks_lie_beside_their_pictures_in_folders_with_repeats_too(pictures_folder: Path, draw: DrawPicture) -> None:
    (pictures_folder / "10_sks dog").mkdir()
    for name in ("10_sks dog/a.png", "10_sks dog/a-mask.png"):
        draw(name, seed=len(name))
    (picture,) = scan_pictures(pictures_folder, prompt="p", masks=True).pictures
    assert (picture.name, picture.times) == ("10_sks dog/a.png", 10)
    assert picture.mask_path == pictures_folder / "10_sks dog" / "a-mask.png"


def test_masks_of_a_data_set_need_no_line_in_its_metadata(pictures_folder: Path, draw: DrawPicture) -> None:
    for name in ("a.png", "a-mask.png", "b.png"):
        draw(name, seed=len(name))
    rows = [json.dumps({"file_name": name, "text": name}) for name in ("a.png", "b.png")]
    (pictures_folder / "metadata.jsonl").write_text("\n".join(rows))
    found = scan_captioned(pictures_folder, Columns(caption="text"), prompt="p", masks=True)
    assert [(one.name, one.mask_sha256 is not None) for one in found.pictures] == [("a.png", True), ("b.png", False)]
    with pytest.raises(BadInput, match=r"in the folder and not named: a-mask\.png"):
        scan_captioned(pictures_folder, Columns(caption="text"), prompt="p")


@pytest.mark.parametrize("flip", [False, True])
def test_a_mask_is_cut_as_its_picture_and_averaged_over_each_latent(masked: Picture, flip: bool) -> None:
    """Once with the mask as the picture, so that what is done to one can be seen in the other."""
    crop = Crop(resized_height=24, resized_width=44, top=0, left=3, flip=flip, target=WIDE)
    found = load_mask(masked, crop, pixels_per_latent=8)
    assert found.dtype == np.float32
    assert found.shape == (3, 5)
    assert masked.mask_path is not None
    shown = Image.merge("RGB", [Image.open(masked.mask_path)] * 3)
    body = io.BytesIO()
    shown.save(body, format="PNG")
    masked.path.write_bytes(body.getvalue())
    look = replace(scan_pictures(masked.path.parent, prompt="p", masks=False).pictures[0])
    pixels = load_pixels(look, crop, interpolation="bilinear")[0] / 2 + 0.5
    expected = pixels.reshape(3, 8, 5, 8).mean(axis=(1, 3))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    marked = (44 - 22 - 3 if flip else 22 - 3) / 40
    assert abs(found.mean() - (1 - marked if flip else marked)) < 0.02 or abs(found.mean() - marked) < 0.02
    assert found[0, 0] == (0 if flip else 1)


def test_a_picture_without_a_mask_is_trained_whole(masked: Picture) -> None:
    crop = Crop(resized_height=24, resized_width=40, top=0, left=0, flip=False, target=WIDE)
    plain = replace(masked, mask_path=None, mask_sha256=None)
    np.testing.assert_array_equal(load_mask(plain, crop, pixels_per_latent=8), np.ones((3, 5), np.float32))


def test_a_mask_of_another_size_is_brought_to_the_pictures(pictures_folder: Path, draw: DrawPicture) -> None:
    draw("dog.png", 80, 48)
    save_mask(pictures_folder / "dog-mask.png", (40, 24), (0, 0, 20, 24))
    (picture,) = scan_pictures(pictures_folder, prompt="p", masks=True).pictures
    crop = Crop(resized_height=48, resized_width=80, top=0, left=0, flip=False, target=Bucket(height=48, width=80))
    found = load_mask(picture, crop, pixels_per_latent=8)
    np.testing.assert_array_equal(found[:, :4], 1)
    np.testing.assert_array_equal(found[:, 6:], 0)


def transparent(path: Path, size: tuple[int, int] = (40, 40)) -> None:
    layer = Image.new("RGBA", size, (200, 30, 40, 0))
    layer.paste((10, 200, 40, 255), (0, 0, size[0] // 2, size[1]))
    layer.save(path)


def test_transparency_is_a_mask_where_there_is_no_file(pictures_folder: Path, draw: DrawPicture) -> None:
    transparent(pictures_folder / "a.png")
    transparent(pictures_folder / "b.png", (48, 48))
    save_mask(pictures_folder / "b-mask.png", (48, 48), (0, 0, 48, 24))
    draw("c.png")
    pictures = scan_pictures(pictures_folder, prompt="p", masks=True)
    own, by_file, none = pictures.pictures
    assert (own.mask_path, own.mask_sha256, own.mask_size_bytes) == (own.path, own.sha256, 0)
    assert by_file.mask_path == pictures_folder / "b-mask.png"
    assert none.mask_sha256 is None
    assert pictures.masked == 2
    crop = Crop(resized_height=16, resized_width=16, top=0, left=0, flip=False, target=Bucket(height=16, width=16))
    # Made smaller, an edge is blurred a little.
    np.testing.assert_allclose(load_mask(own, crop, pixels_per_latent=8), [[1, 0], [1, 0]], atol=0.02)
    np.testing.assert_allclose(load_mask(by_file, crop, pixels_per_latent=8), [[1, 1], [0, 0]], atol=0.02)


def test_white_counts_and_black_and_transparent_do_not() -> None:
    def grey(image: Image.Image) -> list[int]:
        body = io.BytesIO()
        image.save(body, format="PNG")
        return np.asarray(decode_mask(body.getvalue())).ravel().tolist()

    white_on_nothing = Image.new("RGBA", (2, 1), (255, 255, 255, 0))
    white_on_nothing.putpixel((0, 0), (255, 255, 255, 255))
    assert grey(white_on_nothing) == [255, 0]
    deep = Image.fromarray(np.array([[65535, 0, 32896]], dtype=np.uint16))
    assert grey(deep) == [255, 0, 128]
    assert grey(Image.new("1", (1, 1), 1)) == [255]
    assert grey(Image.new("RGB", (1, 1), (128, 128, 128))) == [128]


def test_an_opaque_picture_has_no_transparency(pictures_folder: Path) -> None:
    path = pictures_folder / "a.png"
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(path)
    assert alpha_of(path.read_bytes()) is None
    Image.new("RGB", (4, 4)).save(path)
    assert alpha_of(path.read_bytes()) is None
    with pytest.raises(UnreadableImageError):
        alpha_of(b"no picture")


@pytest.mark.parametrize(
    ("size", "box", "message"),
    [
        ((40, 30), (0, 0, 0, 0), r"a\.png has a mask that is black everywhere: a-mask\.png"),
        ((30, 40), (0, 0, 30, 40), r"a\.png has a mask of another shape: 30 x 40 pixels for 40 x 30"),
    ],
)
def test_a_mask_that_can_not_be_meant_is_named(
    size: tuple[int, int], box: tuple[int, int, int, int], message: str, pictures_folder: Path, draw: DrawPicture
) -> None:
    draw("a.png", 40, 30)
    draw("b.png", 40, 30)
    save_mask(pictures_folder / "a-mask.png", size, box)
    with pytest.raises(BadInput, match=message):
        scan_pictures(pictures_folder, prompt="p", masks=True)
    assert len(scan_pictures(pictures_folder, prompt="p", masks=False).pictures) == 2
    assert len(scan_pictures(pictures_folder, prompt="p", masks=True, skip_bad=True).pictures) == 1


def test_a_damaged_mask_and_a_picture_of_nothing_are_named(pictures_folder: Path, draw: DrawPicture) -> None:
    draw("a.png")
    (pictures_folder / "a-mask.png").write_bytes(b"no picture")
    Image.new("RGBA", (20, 20)).save(pictures_folder / "b.png")
    with pytest.raises(BadInput, match=r"a\.png has a mask that can't be used: a-mask\.png is not a .*b\.png is trans"):
        scan_pictures(pictures_folder, prompt="p", masks=True)


def test_a_mask_that_is_a_copy_of_its_picture_is_named(pictures_folder: Path, draw: DrawPicture) -> None:
    (pictures_folder / "a-mask.png").write_bytes(draw("a.png").read_bytes())
    with pytest.raises(BadInput, match=r"a\.png has a mask that is a copy of the picture itself: a-mask\.png"):
        scan_pictures(pictures_folder, prompt="p", masks=True)


def test_another_mask_is_another_data_set(masked: Picture) -> None:
    plain = replace(masked, mask_path=None, mask_sha256=None, mask_size_bytes=None)
    other = replace(masked, mask_sha256="1" * 64)
    assert len({dataset_fingerprint([one]) for one in (plain, masked, other)}) == 3
    moved = replace(masked, mask_path=Path("elsewhere"))
    assert dataset_fingerprint([moved]) == dataset_fingerprint([masked])


def test_masks_are_kept_in_the_home_and_come_from_there(masked: Picture, tmp_path: Path) -> None:
    transparent(masked.path.parent / "own.png")
    pictures = scan_pictures(masked.path.parent, prompt="p", masks=True)
    storage = MemoryStorage()
    assert store_inputs(storage, pictures)
    assert len(storage.list("inputs/")) == 3
    for path in masked.path.parent.iterdir():
        path.unlink()
    loaded = load_inputs(storage, tmp_path / "stage", prompt="p")
    assert loaded is not None
    assert dataset_fingerprint(loaded.pictures) == dataset_fingerprint(pictures.pictures)
    by_file, own = loaded.pictures
    assert own.mask_path == own.path
    crop = Crop(resized_height=24, resized_width=40, top=0, left=0, flip=False, target=WIDE)
    assert load_mask(by_file, crop, pixels_per_latent=8)[:, 0].tolist() == [1, 1, 1]
    assert by_file.mask_sha256 is not None
    storage.delete(f"inputs/{by_file.mask_sha256}")
    with pytest.raises(RefusedToGoOn, match=r"mask of dog\.png: the run's own copy of this picture is missing"):
        load_inputs(storage, tmp_path / "another", prompt="p")


def test_a_list_without_masks_has_no_word_of_them(pictures_folder: Path, draw: DrawPicture) -> None:
    """So that the lists of homes are what they were."""
    draw("a.png")
    storage = MemoryStorage()
    store_inputs(storage, scan_pictures(pictures_folder, prompt="p", masks=True))
    assert b"mask" not in storage.read(INPUTS_LIST)
    listed = read_list(storage, INPUTS_LIST)
    assert listed is not None
    assert listed.pictures[0].digests == (listed.pictures[0].sha256,)


def test_a_mask_that_changed_during_the_run_is_refused(masked: Picture) -> None:
    assert masked.mask_path is not None
    masked.mask_path.write_bytes(b"other")
    crop = Crop(resized_height=24, resized_width=40, top=0, left=0, flip=False, target=WIDE)
    with pytest.raises(RefusedToGoOn, match=r"dog-mask\.png has changed since the run began"):
        load_mask(masked, crop, pixels_per_latent=8)


def test_class_pictures_have_no_masks(masked: Picture) -> None:
    crops = CropOptions(resolution=32, center_crop=True, random_flip=False)
    source = PixelSource([masked], seed=0, crops=crops, interpolation="lanczos", masking=Masking(pixels_per_latent=8))
    own = source(Slot(step=0, slot=0, picture=0, variant=0, bucket=WIDE)).mask
    assert own is not None
    assert own.shape == (3, 5)
    assert source(Slot(step=0, slot=0, picture=0, variant=0, bucket=WIDE, is_class=True)).mask is None
