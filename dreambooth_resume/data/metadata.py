"""metadata.jsonl and metadata.csv: a line a picture, with its `file_name` and any other columns.

The layout is that of the `datasets` library's `imagefolder`, read here without that library.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dreambooth_resume.errors import BadInput

METADATA = ("metadata.jsonl", "metadata.csv")
IMAGE = "image"
CAPTIONS = ("text", "caption", "prompt")
"""What a column of captions is usually called; the first is the name that Diffusers' scripts have for it."""
_FILE_NAME = "file_name"
_NAMED_AT_MOST = 5
Row = tuple[str, Mapping[str, object], str]
"""File name, columns, and the place in the metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a data set hold the pictures and their captions (None: none does)."""

    image: str = IMAGE
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


def metadata_in(folder: Path) -> Path | None:
    """The folder's list; where it has both, metadata.jsonl."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def read_rows(metadata: Path) -> list[Row]:
    """All lines. Raises BadInput, with the line's number, for what is no row or names a file outside the folder."""
    try:
        text = metadata.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"can't be read: {error}", where=str(metadata), fix="save it as UTF-8 text") from error
    rows = _csv_rows(text) if metadata.suffix == ".csv" else _json_rows(text, metadata)
    return [_named(row, f"{metadata}:{number}") for number, row in rows]


def columns_in(rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns beside the file's name, in the order in which they come up."""
    return tuple({column: None for _, row, _ in rows for column in row if column != _FILE_NAME})


def check_names(rows: Sequence[Row], metadata: Path, *, pictures: Sequence[str]) -> None:
    """Raises BadInput unless every line has a file of its own, and each of these `pictures` a line."""
    names = [name for name, _, _ in rows]
    wrong = {
        "named twice": sorted(name for name, count in Counter(names).items() if count > 1),
        "not in the folder": sorted(name for name in set(names) if not (metadata.parent / name).is_file()),
        "in the folder and not named": sorted(set(pictures) - set(names)),
    }
    told = [f"{what}: {_listed(found)}" for what, found in wrong.items() if found]
    if told:
        raise BadInput(
            "; ".join(told), where=str(metadata), fix="give each picture one line, and remove what has no file"
        )


def _named(row: Mapping[str, object], where: str) -> Row:
    name = row.get(_FILE_NAME)
    if not isinstance(name, str) or not name:
        raise BadInput(f"has no {_FILE_NAME}", where=where, fix=f'add it: "{_FILE_NAME}": "dog.png"')
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise BadInput(f"{name} lies outside the folder", where=where, fix="give a name inside it")
    return PurePosixPath(name).as_posix(), row, where


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


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more
