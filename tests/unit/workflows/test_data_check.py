"""What `dbr data check` finds in real files, and the page that it makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_resume.cli.main import main
from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.errors import BadInput
from dreambooth_resume.workflows.contact_sheet import draw_contact_sheet, write_contact_sheet
from dreambooth_resume.workflows.data_check import DataCheck, check_data, uncommon_word
from dreambooth_resume.workflows.first_start import decided

pytestmark = pytest.mark.quick


def scene(seed: int, width: int = 128, height: int = 128) -> Image.Image:
    """A picture of a few large patches, as a photograph has them."""
    patches = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    folder.mkdir()
    for number in range(3):
        scene(number).save(folder / f"{number}.png")
    return folder


def check(folder: Path, *words: str, trigger_word: str | None = None) -> DataCheck:
    base = ["--instance_data_dir", str(folder), "--instance_prompt", "p", "--pretrained_model_name_or_path", "m"]
    options = decided(resolve(parse_train([*base, "--resolution", "64", *words]), recorded=None))
    return check_data(options, trigger_word=trigger_word)


def test_nothing_odd_is_found_in_pictures_that_are_fine(folder: Path) -> None:
    found = check(folder)
    assert [picture.notes for picture in found.pictures] == [()] * 3
    assert (found.copies, found.alike, found.enlarged, found.unreadable) == ((), (), (), ())
    assert found.shapes == "1 bucket: 64x64 (3)"


def test_copies_and_pictures_that_look_the_same_are_told_apart(folder: Path) -> None:
    shutil.copy(folder / "0.png", folder / "again.png")
    scene(1).resize((70, 70)).save(folder / "smaller.jpg", quality=50)
    found = check(folder)
    assert found.copies == (("0.png", "again.png"),)
    assert found.alike == (("1.png", "smaller.jpg"),)


def test_files_of_every_kind_are_counted_or_named(folder: Path) -> None:
    scene(7, 200, 100).save(folder / "wide.png")
    scene(8, 40, 40).save(folder / "small.png")
    scene(9).save(folder / "moving.gif", save_all=True, append_images=[scene(10)])
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:80])
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    found = check(folder)
    assert found.enlarged == ("small.png",)
    assert found.animated == ("moving.gif",)
    assert [name for name, _ in found.unreadable] == ["cut.png", "phone.heic"]
    shapes = {picture.name: picture.shape for picture in found.pictures}
    assert shapes["wide.png"] != shapes["0.png"] == "64x64"
    squares = check(folder, "--no-use_aspect_ratio_buckets")
    assert {picture.shape for picture in squares.pictures} == {"64x64"}


def test_captions_that_are_blank_or_lack_the_trigger_word(folder: Path) -> None:
    for name, text in {"0": " \n", "1": "a dog", "2": "SKS dog, sksy"}.items():
        (folder / f"{name}.txt").write_text(text)
    found = check(folder, trigger_word="sks")
    assert found.blank_captions == found.without_caption == ("0.png",)
    assert found.without_trigger == ("1.png",)
    assert check(folder).without_trigger == ()


@pytest.mark.parametrize(
    ("prompt", "word"),
    [("a photo of sks dog", "sks"), ("Portrait of TOK, in the style of TOK", "TOK"), ("a photo of the", None)],
)
def test_the_trigger_word_is_the_first_uncommon_one(prompt: str, word: str | None) -> None:
    assert uncommon_word(prompt) == word


def test_repeats_of_folders_count(tmp_path: Path) -> None:
    (tmp_path / "pets" / "3_sks dog").mkdir(parents=True)
    scene(1).save(tmp_path / "pets" / "3_sks dog" / "a.png")
    found = check(tmp_path / "pets", "--repeats", "2")
    assert found.samples_in_a_pass == 6
    assert found.pictures[0].caption == "sks dog"


def test_the_contact_sheet_shows_each_picture_and_marks_what_is_odd(folder: Path) -> None:
    scene(8, 40, 40).save(folder / "small.png")
    sheet = draw_contact_sheet(check(folder))
    assert sheet.width > 4 * 200
    pixels = np.asarray(sheet).astype(int)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)
    outlined = red[16 + 50, :]  # a row through the thumbnails: the sides of one red frame
    assert outlined[16 + 3 * 216 - 1]
    assert not outlined[15]
    middle = sheet.getpixel((16 + 100, 16 + 100))
    assert middle != (255, 255, 255)


def test_the_sheet_never_lands_among_the_pictures_or_over_another_file(folder: Path, tmp_path: Path) -> None:
    found = check(folder)
    with pytest.raises(BadInput, match="among the pictures"):
        write_contact_sheet(found, folder / "sheet.png")
    with pytest.raises(BadInput, match="no name of a PNG"):
        write_contact_sheet(found, tmp_path / "sheet.jpg")
    assert write_contact_sheet(found, tmp_path / "sheet.png") == 3
    with Image.open(tmp_path / "sheet.png") as written:
        assert written.format == "PNG"
    with pytest.raises(BadInput, match="there already"):
        write_contact_sheet(found, tmp_path / "sheet.png")


def test_the_command_on_a_folder_and_on_a_run_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "1.txt").write_text("a cat")
    words = ["data", "check", str(folder), "--instance-prompt", "a photo of sks dog", "--resolution", "64"]
    assert main(words) == 0
    assert 'captions without the trigger word "sks" (1): 1.png' in capsys.readouterr().out
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"pretrained_model_name_or_path: m\ninstance_data_dir: {folder}\ninstance_prompt: tok\nresolution: 64\n"
    )
    assert main(["data", "check", "--config", str(run_file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["trigger_word"] == "tok"
    assert [one["name"] for one in told["pictures"]] == ["0.png", "1.png", "2.png"]
    (folder / "cut.png").write_bytes(b"cut")
    assert main(["data", "check", str(folder)]) == 2
    assert main(["data", "check"]) == 2
    assert main(["data", "chekc"]) == 2
