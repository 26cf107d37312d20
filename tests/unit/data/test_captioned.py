"""A data set in a folder: every caption with its own picture, and what is wrong named with its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreambooth_resume.data.captioned import is_picture_folder, scan_captioned
from dreambooth_resume.data.dataset import PictureSet, scan_pictures
from dreambooth_resume.data.metadata import Columns
from dreambooth_resume.errors import BadInput

from .conftest import DrawPicture

TEXT = Columns(caption="text")


def write_rows(folder: Path, *rows: dict[str, object]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def captions(found: PictureSet) -> dict[str, str]:
    return {picture.name: picture.prompt for picture in found.pictures}


def refused(folder: Path, columns: Columns = TEXT) -> BadInput:
    with pytest.raises(BadInput) as refusal:
        scan_captioned(folder, columns, prompt="sks")
    return refusal.value


@pytest.fixture
def folder(pictures_folder: Path, draw: DrawPicture) -> Path:
    for number, name in enumerate(("a.png", "b.jpg", "c.png")):
        draw(name, seed=number)
    return pictures_folder


def test_each_picture_has_its_own_caption_and_a_blank_one_is_the_instance_prompt(folder: Path) -> None:
    write_rows(
        folder,
        {"file_name": "c.png", "text": "a dog in the snow", "likes": 3},
        {"file_name": "a.png", "text": " a dog on the beach "},
        {"file_name": "b.jpg", "text": "  "},
    )
    found = scan_captioned(folder, TEXT, prompt="sks")
    assert captions(found) == {"a.png": "a dog on the beach", "b.jpg": "sks", "c.png": "a dog in the snow"}
    assert [picture.name for picture in found.pictures] == ["a.png", "b.jpg", "c.png"]
    assert [picture.caption for picture in found.pictures] == ["a dog on the beach", None, "a dog in the snow"]
    assert set(captions(scan_captioned(folder, Columns(), prompt="sks")).values()) == {"sks"}


def test_the_pictures_are_those_of_the_folder_without_metadata(folder: Path) -> None:
    plain = scan_pictures(folder, prompt="sks")
    assert scan_captioned(folder, Columns(), prompt="sks") == plain


def test_sub_folders_and_the_train_part(folder: Path, tmp_path: Path) -> None:
    train = tmp_path / "set" / "train"
    (train / "winter").mkdir(parents=True)
    (folder / "a.png").rename(train / "winter" / "a.png")
    (folder / "c.png").rename(train / "c.png")
    (train / ".hidden").mkdir()
    (folder / "b.jpg").rename(train / ".hidden" / "b.jpg")
    assert is_picture_folder(tmp_path / "set")
    assert list(captions(scan_captioned(tmp_path / "set", Columns(), prompt="p"))) == ["c.png", "winter/a.png"]
    write_rows(train, {"file_name": "winter/a.png", "text": "snow"}, {"file_name": "c.png", "text": None})
    found = scan_captioned(tmp_path / "set", TEXT, prompt="p")
    assert captions(found) == {"c.png": "p", "winter/a.png": "snow"}


def test_csv_with_a_caption_of_two_lines(folder: Path) -> None:
    (folder / "metadata.csv").write_text('file_name,text\na.png,"a dog,\nrunning"\nb.jpg,\nc.png,a cat\n')
    found = captions(scan_captioned(folder, TEXT, prompt="p"))
    assert found == {"a.png": "a dog,\nrunning", "b.jpg": "p", "c.png": "a cat"}


@pytest.mark.parametrize(
    ("columns", "flag"),
    [(Columns(caption="captoin"), "--caption_column"), (Columns(image="img", caption="text"), "--image_column")],
)
def test_a_missing_column_is_named_with_those_that_are_there(columns: Columns, flag: str, folder: Path) -> None:
    write_rows(folder, *({"file_name": name, "text": "x", "likes": 1} for name in ("a.png", "b.jpg", "c.png")))
    error = refused(folder, columns)
    assert error.where == flag
    assert error.what.endswith("it has image, text, likes")


def test_a_caption_column_without_metadata_is_missing(folder: Path) -> None:
    assert "it has image" in refused(folder).what


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"text": "x"}', "has no file_name"),
        ('{"file_name": "../a.png", "text": "x"}', "lies outside the folder"),
        ('{"file_name": "/etc/passwd", "text": "x"}', "lies outside the folder"),
        ('{"file_name": "a.png", "text": 3}', "not in the folder|not named"),
    ],
)
def test_a_bad_line_is_named_by_its_number(lines: str, words: str, folder: Path) -> None:
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n\n' + lines + "\n")
    error = refused(folder)
    assert any(word in error.what for word in words.split("|"))
    assert str(error.where).startswith(str(folder / "metadata.jsonl"))
    if "|" not in words:
        assert str(error.where).endswith(":3")


def test_lines_and_pictures_that_do_not_meet_are_all_named(folder: Path) -> None:
    write_rows(folder, *({"file_name": name, "text": "x"} for name in ("a.png", "a.png", "gone.png")))
    assert refused(folder).what == (
        "named twice: a.png; not in the folder: gone.png; in the folder and not named: b.jpg, c.png"
    )


def test_a_caption_that_is_no_text_is_refused(folder: Path) -> None:
    write_rows(folder, *({"file_name": name, "text": ["x"]} for name in ("a.png", "b.jpg", "c.png")))
    assert "the caption is list, not text" in refused(folder).what


def test_a_folder_of_other_files_is_not_read_here(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"x")
    assert not is_picture_folder(tmp_path)


def test_an_unreadable_picture_is_named_or_left_out(folder: Path) -> None:
    (folder / "b.jpg").write_bytes(b"torn")
    write_rows(folder, *({"file_name": name, "text": name} for name in ("a.png", "b.jpg", "c.png")))
    assert "b.jpg" in refused(folder).what
    found = scan_captioned(folder, TEXT, prompt="p", skip_bad=True)
    assert captions(found) == {"a.png": "a.png", "c.png": "c.png"}
    assert [name for name, _ in found.skipped] == ["b.jpg"]
