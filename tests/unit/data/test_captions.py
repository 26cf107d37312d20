"""Captions beside the pictures of a folder: which of several counts, and what is wrong, named with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreambooth_resume.config.options.data import CaptionStrategy
from dreambooth_resume.data.captions import CaptionChoice
from dreambooth_resume.data.dataset import scan_pictures
from dreambooth_resume.errors import BadInput

from .conftest import DrawPicture

PROMPT = "a photo of sks dog"


def captions(folder: Path, strategy: CaptionStrategy = "auto", column: str | None = None) -> dict[str, str]:
    found = scan_pictures(folder, prompt=PROMPT, captions=CaptionChoice(strategy=strategy, column=column))
    assert all(picture.prompt == (picture.caption or PROMPT) for picture in found.pictures)
    return {picture.name: picture.prompt for picture in found.pictures}


def refused(folder: Path, strategy: CaptionStrategy = "auto", column: str | None = None) -> BadInput:
    with pytest.raises(BadInput) as refusal:
        captions(folder, strategy, column)
    return refusal.value


def write_rows(folder: Path, *rows: dict[str, object]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(pictures_folder: Path, draw: DrawPicture) -> Path:
    for number, name in enumerate(("a.png", "b.jpg", "c_d.png")):
        draw(name, seed=number)
    return pictures_folder


def test_a_caption_is_the_first_that_is_there_and_not_blank(folder: Path) -> None:
    (folder / "a.txt").write_text("  from a.txt,\n on two lines\n")
    (folder / "a.caption").write_text("from a.caption")
    (folder / "b.txt").write_text(" \n")
    (folder / "b.caption").write_text("\ufefffrom b.caption", encoding="utf-8")
    (folder / "notes.txt").write_text("no picture's")
    write_rows(folder, *({"file_name": name, "text": f"line of {name}"} for name in ("a.png", "b.jpg", "c_d.png")))
    assert captions(folder) == {
        "a.png": "from a.txt, on two lines",
        "b.jpg": "from b.caption",
        "c_d.png": "line of c_d.png",
    }
    assert captions(folder, "metadata") == {name: f"line of {name}" for name in ("a.png", "b.jpg", "c_d.png")}
    assert captions(folder, "textfile")["c_d.png"] == PROMPT
    assert captions(folder, "filename") == {"a.png": "a", "b.jpg": "b", "c_d.png": "c d"}
    assert set(captions(folder, "instanceprompt").values()) == {PROMPT}


def test_without_captions_nothing_changes(folder: Path) -> None:
    plain = scan_pictures(folder, prompt=PROMPT)
    assert scan_pictures(folder, prompt=PROMPT, captions=CaptionChoice(strategy="auto")) == plain


def test_endings_in_capitals_are_found(folder: Path) -> None:
    (folder / "a.TXT").write_text("loud")
    assert captions(folder)["a.png"] == "loud"


def test_a_list_needs_no_line_for_every_picture_but_a_picture_for_every_line(folder: Path) -> None:
    write_rows(folder, {"file_name": "a.png", "caption": "a line"})
    assert captions(folder) == {"a.png": "a line", "b.jpg": PROMPT, "c_d.png": PROMPT}
    write_rows(folder, {"file_name": "aa.png", "caption": "a line"}, {"file_name": "a.png", "caption": ""})
    assert refused(folder).what == "not in the folder: aa.png"


def test_the_column_is_the_one_that_is_named_or_the_one_that_is_usual(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,likes,prompt,caption\na.png,3,by prompt,by caption\n")
    assert captions(folder)["a.png"] == "by caption"
    assert captions(folder, column="prompt")["a.png"] == "by prompt"


@pytest.mark.parametrize(
    ("column", "words"), [(None, "no column text or caption or prompt"), ("words", "no column words")]
)
def test_a_missing_column_is_named_with_those_that_are_there(column: str | None, words: str, folder: Path) -> None:
    write_rows(folder, {"file_name": "a.png", "label": "x", "likes": 1})
    error = refused(folder, column=column)
    assert words in error.what
    assert error.what.endswith("it has label, likes")
    assert "--caption_strategy instanceprompt" in (error.fix or "")
    assert captions(folder, "textfile")["a.png"] == PROMPT


def test_a_list_that_is_asked_for_and_not_there_is_missed(folder: Path) -> None:
    assert "neither metadata.jsonl nor metadata.csv" in refused(folder, "metadata").what


def test_a_caption_that_is_no_text_names_its_file(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"\xff\xfe\x00")
    error = refused(folder)
    assert error.where == str(folder / "a.txt")
    assert "UTF-8" in (error.fix or "")
