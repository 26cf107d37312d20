"""A data set in a folder, as Diffusers' script takes it by --dataset_name: pictures, and metadata that describes them.

The layout is the `imagefolder` of the `datasets` library: pictures in the folder or in its `train`, sub folders
included, and beside them metadata.jsonl (or .csv), a line a picture with its `file_name` and any other columns. It is
read here without that library.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dreambooth_resume.data.dataset import SUFFIXES, FoundFile, PictureSet, look_at_files, with_masks
from dreambooth_resume.data.mask_files import masks_among
from dreambooth_resume.errors import BadInput

METADATA = ("metadata.jsonl", "metadata.csv")
_FILE_NAME, _IMAGE = "file_name", "image"
_NAMED_AT_MOST = 5
Row = tuple[str, Mapping[str, object], str]
"""File name, columns, and the place in the metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a data set hold the pictures and their captions (None: none does)."""

    image: str = _IMAGE
    caption: str | None = None

    def check(self, there: Sequence[str], *, name: str) -> None:
        """Raises BadInput for a column that isn't there, naming those that are."""
        for flag, wanted in (("--image_column", self.image), ("--caption_column", self.caption)):
            if wanted is not None and wanted not in there:
                raise BadInput(
                    f"{name} has no column {wanted}; it has {', '.join(there)}",
                    where=flag,
                    fix=f"name one of these: {flag} …",
                )

    def caption_of(self, row: Mapping[str, object], *, where: str) -> str | None:
        """The row's caption; None where it is blank, so that the instance prompt stands in, as in Diffusers' script."""
        caption = None if self.caption is None else row.get(self.caption)
        if caption is None:
            return None
        if not isinstance(caption, str):
            raise BadInput(
                f"the caption is {type(caption).__name__}, not text",
                where=where,
                fix="choose a column of texts: --caption_column …",
            )
        return caption.strip() or None


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
    metadata = next((root / name for name in METADATA if (root / name).is_file()), None)
    if metadata is None:
        columns.check([_IMAGE], name=f"{folder} without metadata.jsonl")
        rows: list[Row] = [(name, {}, str(folder)) for name in files]
    else:
        rows = list(_rows(metadata))
        others = {column: None for _, row, _ in rows for column in row if column != _FILE_NAME}
        columns.check([_IMAGE, *others], name=str(metadata))
        to_be_named = {name: path for name, path in files.items() if name not in masks_there}
        _check_names([name for name, _, _ in rows], root, to_be_named, metadata)
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
    return folder if any((folder / name).is_file() for name in METADATA) or not train.is_dir() else train


def _picture_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.suffix.lower() in SUFFIXES and path.is_file():
            yield path


def _rows(metadata: Path) -> Iterator[Row]:
    try:
        text = metadata.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"can't be read: {error}", where=str(metadata), fix="save it as UTF-8 text") from error
    rows = _csv_rows(text) if metadata.suffix == ".csv" else _json_rows(text, metadata)
    for number, row in rows:
        where = f"{metadata}:{number}"
        name = row.get(_FILE_NAME)
        if not isinstance(name, str) or not name:
            raise BadInput(f"has no {_FILE_NAME}", where=where, fix=f'add it: "{_FILE_NAME}": "dog.png"')
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise BadInput(f"{name} lies outside the folder", where=where, fix="give a name inside it")
        yield PurePosixPath(name).as_posix(), row, where


def _json_rows(text: str, metadata: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(
                f"is no JSON: {error}", where=f"{metadata}:{number}", fix="one JSON object a line"
            ) from error
        if not isinstance(row, dict):
            raise BadInput(
                "is no JSON object", where=f"{metadata}:{number}", fix='a line reads {"file_name": "dog.png"}'
            )
        yield number, row


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    # Line ends stay: a caption in quotes may hold one.
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        yield reader.line_num, {name: value for name, value in row.items() if name is not None}


def _check_names(names: Sequence[str], root: Path, files: Mapping[str, Path], metadata: Path) -> None:
    """Raises BadInput unless every line has a file of its own, and every picture a line."""
    wrong = {
        "named twice": sorted(name for name, count in Counter(names).items() if count > 1),
        "not in the folder": sorted(name for name in set(names) if not (root / name).is_file()),
        "in the folder and not named": sorted(set(files) - set(names)),
    }
    told = [f"{what}: {_listed(found)}" for what, found in wrong.items() if found]
    if told:
        raise BadInput(
            "; ".join(told), where=str(metadata), fix="give each picture one line, and remove what has no file"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more
