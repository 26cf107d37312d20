"""Data sets that the `datasets` library loads: the real library, on folders of Parquet as the Hub has them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.hub_dataset import load_dataset_pictures, translated
from dreambooth_resume.data.metadata import Columns
from dreambooth_resume.errors import AccessDenied, BadInput, ComeBack

datasets = pytest.importorskip("datasets")

Write = Callable[..., Path]


def png(seed: int) -> bytes:
    body = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(body, format="PNG")
    return body.getvalue()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a Parquet folder with these columns and returns it."""

    def write_parquet(name: str = "train", **columns: list[Any]) -> Path:
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        made = datasets.Dataset.from_dict(columns)
        for column in ("image", "photo"):
            if column in columns:
                made = made.cast_column(column, datasets.Image())
        made.to_parquet(folder / f"{name}.parquet")
        return folder

    return write_parquet


def load(folder: Path, tmp_path: Path, columns: Columns | None = None, *, skip_bad: bool = False) -> PictureSet:
    return load_dataset_pictures(
        str(folder),
        columns or Columns(caption="text"),
        config=None,
        cache_dir=str(tmp_path / "cache"),
        keep=tmp_path / "keep",
        prompt="sks",
        skip_bad=skip_bad,
    )


def cells(*bodies: bytes) -> list[dict[str, Any]]:
    return [{"bytes": body, "path": f"photos/{number}.png"} for number, body in enumerate(bodies)]


def test_pictures_keep_their_bytes_their_order_and_their_captions(write: Write, tmp_path: Path) -> None:
    bodies = [png(seed) for seed in (2, 0, 1)]
    folder = write(image=cells(*bodies), text=["a red dog", None, "a dog"])
    found = load(folder, tmp_path)
    assert [picture.path.read_bytes() for picture in found.pictures] == bodies
    assert [picture.prompt for picture in found.pictures] == ["a red dog", "sks", "a dog"]
    assert [picture.name for picture in found.pictures] == ["000000-0.png", "000001-1.png", "000002-2.png"]
    assert load(folder, tmp_path) == found
    assert len(list((tmp_path / "keep").iterdir())) == 3


def test_another_column_holds_the_pictures(write: Write, tmp_path: Path) -> None:
    folder = write(photo=cells(png(1)), text=["a"])
    assert len(load(folder, tmp_path, Columns(image="photo")).pictures) == 1


@pytest.mark.parametrize(
    ("columns", "where", "words"),
    [
        (Columns(image="img"), "--image_column", "it has image, text, likes"),
        (Columns(caption="txt"), "--caption_column", "it has image, text, likes"),
        (Columns(image="text"), "--image_column", "holds string, not pictures"),
        (Columns(caption="likes"), None, "the caption is int, not text"),
    ],
)
def test_wrong_columns_are_named(columns: Columns, where: str | None, words: str, write: Write, tmp_path: Path) -> None:
    folder = write(image=cells(png(1)), text=["a"], likes=[3])
    with pytest.raises(BadInput, match=words) as refusal:
        load(folder, tmp_path, columns)
    assert where is None or refusal.value.where == where


def test_a_row_without_a_picture_and_a_torn_one_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no picture") as refusal:
        load(write(image=[*cells(png(1)), None], text=["a", "b"]), tmp_path)
    assert str(refusal.value.where).endswith("row 1")
    folder = write(image=cells(png(1), b"torn"), text=["a", "b"])
    with pytest.raises(BadInput, match=r"000001-1\.png"):
        load(folder, tmp_path)
    assert len(load(folder, tmp_path, skip_bad=True).pictures) == 1


def test_only_the_train_part_is_trained_on(write: Write, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no part train; it has test"):
        load(write("test", image=cells(png(1)), text=["a"]), tmp_path)


def test_nothing_that_can_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput):
        load(tmp_path / "empty", tmp_path)


def test_what_the_hub_answers_is_said_in_our_words() -> None:
    """No Hub is here: the errors are those that the library documents."""
    unknown = translated(datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"), "a/b")
    assert isinstance(unknown, BadInput)
    gated = datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub.")
    assert isinstance(translated(gated, "a/b"), AccessDenied)
    assert isinstance(translated(ConnectionError("Couldn't reach 'a/b' on the Hub"), "a/b"), ComeBack)
    config = translated(ValueError("BuilderConfig 'x' not found. Available: ['y']"), "a/b")
    assert isinstance(config, BadInput)
    assert "Available: ['y']" in config.what


def test_a_folder_that_is_not_there_is_no_id_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such folder"):
        load(tmp_path / "nowhere", tmp_path)
