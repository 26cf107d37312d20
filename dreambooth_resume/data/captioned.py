"""A data set in a folder, as Diffusers' script takes it by --dataset_name: pictures, and metadata that describes them.

The layout is the `imagefolder` of the `datasets` library: pictures in the folder or in its `train`, sub folders
included, and beside them metadata.jsonl (or .csv).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dreambooth_resume.data.dataset import SUFFIXES, FoundFile, PictureSet, look_at_files, with_masks
from dreambooth_resume.data.mask_files import masks_among
from dreambooth_resume.data.metadata import (
    IMAGE,
    METADATA,
    Columns,
    Row,
    check_names,
    columns_in,
    metadata_in,
    read_rows,
)
from dreambooth_resume.errors import BadInput


def is_picture_folder(folder: Path) -> bool:
    """Whether the folder is read here: it has metadata, or pictures as files. Else it is of a kind for `datasets`."""
    return any((root / name).is_file() for root in (folder, folder / "train") for name in METADATA) or any(
        True for _ in _picture_files(folder)
    )


def scan_captioned(
    folder: Path, columns: Columns, *, prompt: str, skip_bad: bool = False, masks: bool | None = None
) -> PictureSet:
    """The pictures of a data set's folder with their captions, each decoded once to prove that it can be.

    Raises BadInput for missing columns, files and captions, and, without `skip_bad`, for what can't be read.
    """
    root = _root(folder)
    files = {path.relative_to(root).as_posix(): path for path in _picture_files(root)}
    masks_there = set(masks_among(list(files)).values()) if masks is not None else set()
    metadata = metadata_in(root)
    if metadata is None:
        columns.check([IMAGE], name=f"{folder} without metadata.jsonl")
        rows: list[Row] = [(name, {}, str(folder)) for name in files]
    else:
        rows = read_rows(metadata)
        columns.check([IMAGE, *columns_in(rows)], name=str(metadata))
        check_names(rows, metadata, pictures=[name for name in files if name not in masks_there])
    if not rows:
        raise BadInput(
            f"no pictures found: looked for {', '.join(SUFFIXES)}, sub folders included",
            where=f"dataset_name: {folder}",
            fix="name a folder with pictures, or a data set on the Hub",
        )
    found = [
        FoundFile(name=name, path=root / name, caption=columns.caption_of(row, where=where))
        for name, row, where in rows
    ]
    found = with_masks(sorted(found, key=lambda one: one.name), masks, among=files)
    return look_at_files(found, where=f"dataset_name: {folder}", prompt=prompt, skip_bad=skip_bad)


def _root(folder: Path) -> Path:
    """`train` in the folder, which is the part that the script trains on, unless the metadata lie beside it."""
    train = folder / "train"
    return folder if metadata_in(folder) is not None or not train.is_dir() else train


def _picture_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.suffix.lower() in SUFFIXES and path.is_file():
            yield path
