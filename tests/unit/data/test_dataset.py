"""What counts as a picture, and what a user reads when the folder isn't as expected."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_resume.data.dataset import Picture, scan_pictures
from dreambooth_resume.data.fingerprint import dataset_fingerprint
from dreambooth_resume.errors import BadInput

from .conftest import DrawPicture

PROMPT = "a photo of sks dog"


def test_pictures_are_found_sorted_and_measured(pictures_folder: Path, draw: DrawPicture) -> None:
    for name, width in (("b.png", 40), ("a.JPG", 20), ("C.webp", 30)):
        draw(name, width)
    found = scan_pictures(pictures_folder, prompt=PROMPT)
    assert [(picture.name, picture.width, picture.height) for picture in found.pictures] == [
        ("C.webp", 30, 30),
        ("a.JPG", 20, 30),
        ("b.png", 40, 30),
    ]
    last = found.pictures[-1]
    assert last == Picture(
        name="b.png",
        path=pictures_folder / "b.png",
        sha256=hashlib.sha256((pictures_folder / "b.png").read_bytes()).hexdigest(),
        size_bytes=(pictures_folder / "b.png").stat().st_size,
        width=40,
        height=30,
        prompt=PROMPT,
    )
    assert found.size_bytes == sum(path.stat().st_size for path in pictures_folder.iterdir())
    assert {picture.prompt for picture in found.pictures} == {PROMPT}


def test_stray_files_and_folders_are_ignored(pictures_folder: Path, draw: DrawPicture) -> None:
    draw("dog.png")
    for name in (".DS_Store", "._dog.png", "dog.txt", "Thumbs.db", "dog.png.part", "latents.cache"):
        (pictures_folder / name).write_bytes(b"not a picture")
    (pictures_folder / "more.png").mkdir()
    (pictures_folder / "old").mkdir()
    (pictures_folder / "old" / "cat.png").write_bytes(b"not looked at")
    assert [picture.name for picture in scan_pictures(pictures_folder, prompt=PROMPT).pictures] == ["dog.png"]


def test_links_to_pictures_count(pictures_folder: Path, draw: DrawPicture, tmp_path: Path) -> None:
    draw("dog.png").rename(tmp_path / "elsewhere")
    (pictures_folder / "link.png").symlink_to(tmp_path / "elsewhere")
    assert [picture.name for picture in scan_pictures(pictures_folder, prompt=PROMPT).pictures] == ["link.png"]


def test_size_is_after_exif_rotation(pictures_folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(pictures_folder / "phone.jpg", exif=exif)
    picture = scan_pictures(pictures_folder, prompt=PROMPT).pictures[0]
    assert (picture.width, picture.height) == (30, 40)


def test_a_kind_is_known_by_its_content_and_not_by_its_name(pictures_folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(pictures_folder / "really_png.jpg", "PNG")
    assert len(scan_pictures(pictures_folder, prompt=PROMPT).pictures) == 1


def test_an_empty_folder_says_what_was_looked_for_and_where(pictures_folder: Path) -> None:
    (pictures_folder / "notes.txt").write_text("sit")
    with pytest.raises(BadInput) as caught:
        scan_pictures(pictures_folder, prompt=PROMPT)
    assert ".jpg" in caught.value.what
    assert "1 other file there" in caught.value.what
    assert caught.value.where == f"instance_data_dir: {pictures_folder}"
    assert "directly into it" in (caught.value.fix or "")


def test_pictures_one_folder_below_are_pointed_out(pictures_folder: Path, draw: DrawPicture) -> None:
    (pictures_folder / "dog").mkdir()
    draw("dog/1.png")
    draw("dog/2.png")
    with pytest.raises(BadInput) as caught:
        scan_pictures(pictures_folder, prompt=PROMPT)
    assert f"2 pictures lie in {pictures_folder / 'dog'}" in (caught.value.fix or "")


def test_a_missing_folder_and_a_file_are_refused(tmp_path: Path, draw: DrawPicture) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        scan_pictures(tmp_path / "nowhere", prompt=PROMPT)
    picture = draw("dog.png")
    with pytest.raises(BadInput, match="not a folder") as caught:
        scan_pictures(picture, prompt=PROMPT)
    assert str(picture.parent) in (caught.value.fix or "")


def test_a_folder_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="can't be opened: File name too long"):
        scan_pictures(tmp_path / ("x" * 300), prompt=PROMPT)


def spoil_three(folder: Path, draw: DrawPicture) -> None:
    whole = draw("cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")


def test_every_unreadable_picture_is_named_with_its_reason(pictures_folder: Path, draw: DrawPicture) -> None:
    draw("good.png")
    spoil_three(pictures_folder, draw)
    with pytest.raises(BadInput) as caught:
        scan_pictures(pictures_folder, prompt=PROMPT)
    assert caught.value.what.startswith("3 pictures can't be read: ")
    assert "cut.png is damaged or cut short" in caught.value.what
    assert "empty.jpg is empty" in caught.value.what
    assert "phone.HEIC is HEIC" in caught.value.what
    assert "--skip-bad-images" in (caught.value.fix or "")


def test_a_hundred_unreadable_pictures_do_not_fill_the_screen(pictures_folder: Path) -> None:
    for number in range(100):
        (pictures_folder / f"{number:03}.png").write_bytes(b"x")
    with pytest.raises(BadInput) as caught:
        scan_pictures(pictures_folder, prompt=PROMPT)
    assert len(caught.value.what) < 500
    assert "and 95 more" in caught.value.what


def test_skip_bad_goes_on_without_them_and_says_which(pictures_folder: Path, draw: DrawPicture) -> None:
    draw("good.png")
    spoil_three(pictures_folder, draw)
    found = scan_pictures(pictures_folder, prompt=PROMPT, skip_bad=True)
    assert [picture.name for picture in found.pictures] == ["good.png"]
    assert [name for name, _ in found.skipped] == ["cut.png", "empty.jpg", "phone.HEIC"]


def test_skip_bad_with_nothing_left_is_refused(pictures_folder: Path) -> None:
    (pictures_folder / "empty.jpg").write_bytes(b"")
    with pytest.raises(BadInput, match=r"None of the 1 pictures can be read; the first, empty\.jpg, is empty"):
        scan_pictures(pictures_folder, prompt=PROMPT, skip_bad=True)


def test_a_strip_that_would_take_gigabytes_is_refused(pictures_folder: Path, draw: DrawPicture) -> None:
    draw("strip.png", 1000, 3)
    with pytest.raises(BadInput, match="strip of 1000 x 3 pixels"):
        scan_pictures(pictures_folder, prompt=PROMPT)


def test_a_broken_link_is_named(pictures_folder: Path) -> None:
    (pictures_folder / "gone.png").symlink_to(pictures_folder / "nowhere")
    with pytest.raises(BadInput, match=r"gone\.png can't be opened: No such file"):
        scan_pictures(pictures_folder, prompt=PROMPT)


def test_fingerprint_is_of_names_contents_and_prompts(pictures_folder: Path, draw: DrawPicture, tmp_path: Path) -> None:
    def fingerprint(folder: Path, prompt: str = PROMPT) -> str:
        return dataset_fingerprint(scan_pictures(folder, prompt=prompt).pictures)

    draw("a.png", seed=1)
    draw("b.png", seed=2)
    first = fingerprint(pictures_folder)
    moved = pictures_folder.rename(tmp_path / "moved")
    (moved / "notes.txt").write_text("no part of it")
    assert fingerprint(moved) == first

    assert fingerprint(moved, prompt="a photo of sks cat") != first
    (moved / "b.png").rename(moved / "c.png")
    renamed = fingerprint(moved)
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(moved / "c.png")
    assert len({first, renamed, fingerprint(moved)}) == 3
