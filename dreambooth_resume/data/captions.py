"""Captions of pictures in a folder: from files beside them, a list, their own names, or their folder's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dreambooth_resume.config.options.data import CaptionStrategy
from dreambooth_resume.data.metadata import CAPTIONS, Columns, check_names, columns_in, metadata_in, read_rows
from dreambooth_resume.errors import BadInput

ENDINGS = (".txt", ".caption")
"""Of files with captions, beside the picture and of its name; the first that is there, and isn't blank, counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionChoice:
    """Which of them count, and which column of metadata (None: one that is called as columns of captions are)."""

    strategy: CaptionStrategy = "instanceprompt"
    column: str | None = None


def captions_in(
    folder: Path, names: Sequence[str], choice: CaptionChoice, *, of_folder: str | None = None
) -> dict[str, str]:
    """The captions of the pictures of these `names` in `folder`; one without any isn't in the result.

    With auto the first of these that isn't blank: NAME.txt, NAME.caption, the picture's line in metadata.jsonl or
    metadata.csv, and `of_folder`, what the folder's own name says. Raises BadInput for files and lists that can't be
    read, for a column that isn't there, and for lines without a picture.
    """
    ways = _ways(folder, choice, of_folder)
    found: dict[str, str] = {}
    for name in names:
        for way in ways:
            caption = way(name)
            if caption is not None:
                found[name] = caption
                break
    return found


_Way = Callable[[str], str | None]
"""A picture's name → its caption."""


def _ways(folder: Path, choice: CaptionChoice, of_folder: str | None) -> tuple[_Way, ...]:
    if choice.strategy == "instanceprompt":
        return ()
    if choice.strategy == "filename":
        return (_by_its_name,)
    ways: list[_Way] = []
    if choice.strategy in ("auto", "textfile"):
        ways.append(_beside(folder))
    if choice.strategy in ("auto", "metadata"):
        ways.append(_in_the_list(folder, choice))
    if choice.strategy == "auto" and of_folder is not None:
        ways.append(lambda _name: of_folder)
    return tuple(ways)


def _by_its_name(name: str) -> str | None:
    text = " ".join(PurePosixPath(name).stem.replace("_", " ").split())
    return text or None


def _beside(folder: Path) -> _Way:
    # A listing, so that DOG.TXT of a camera's card is found on any file system.
    there: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS and path.is_file():
            there.setdefault((path.stem, path.suffix.lower()), path)

    def beside(name: str) -> str | None:
        for ending in ENDINGS:
            path = there.get((PurePosixPath(name).stem, ending))
            text = _read(path) if path is not None else ""
            if path is not None and text:
                return text
        return None

    return beside


def _read(path: Path) -> str:
    """The file's text on one line."""
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"the caption can't be read: {error}",
            where=str(path),
            fix="save it as UTF-8 text, or take no captions: --caption_strategy instanceprompt",
        ) from error


def _in_the_list(folder: Path, choice: CaptionChoice) -> _Way:
    metadata = metadata_in(folder)
    if metadata is None:
        if choice.strategy == "metadata":
            raise BadInput(
                "there is neither metadata.jsonl nor metadata.csv",
                where=f"instance_data_dir: {folder}",
                fix="put one there, or leave caption_strategy out",
            )
        return lambda _name: None
    rows = read_rows(metadata)
    check_names(rows, metadata, pictures=())
    column = _column(columns_in(rows), choice, metadata)
    columns = Columns(caption=column)
    by_name = {name: columns.caption_of(row, where=where) for name, row, where in rows}
    return by_name.get


def _column(there: Sequence[str], choice: CaptionChoice, metadata: Path) -> str:
    """The column of captions. Raises BadInput, naming those that are there, if it isn't."""
    wanted = CAPTIONS if choice.column is None else (choice.column,)
    found = next((name for name in wanted if name in there), None)
    if found is not None:
        return found
    told = f"it has {', '.join(there)}" if there else "it has only file_name"
    raise BadInput(
        f"{metadata} has no column {' or '.join(wanted)}; {told}",
        where="--caption_column",
        fix="name the column of captions, --caption_column …, or take none: --caption_strategy instanceprompt",
    )
