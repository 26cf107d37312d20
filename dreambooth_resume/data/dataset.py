"""Finds the pictures in a folder and makes sure, before anything is loaded, that each can be read."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from dreambooth_resume.data.captions import CaptionChoice, captions_in
from dreambooth_resume.data.images import UnreadableImageError, decode_rgb, frames_in
from dreambooth_resume.data.mask_files import look_at_mask, masks_among
from dreambooth_resume.errors import BadInput

# HEIC is what phones write and Pillow can't read: known here, so that it is named instead of silently left out.
SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Resized to the resolution on its shorter side, a longer strip would take gigabytes.
MAX_ASPECT_RATIO = 32
MOST_TIMES = 1000
_CONCEPT = re.compile(r"(\d+)_(.*\S.*)")
_DECODERS = 4
_NAMED_AT_MOST = 5
_LOOKED_AT_BELOW = 10_000
_logger = logging.getLogger(__name__)
_INSTANCE, _CLASS, _HELD_OUT = "instance_data_dir", "class_data_dir", "validation_data_dir"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture to train on. `name` is its path in the folder, `width` and `height` are after EXIF rotation."""

    name: str
    path: Path
    sha256: str
    size_bytes: int
    width: int
    height: int
    prompt: str
    caption: str | None = None
    """The picture's own, which `prompt` then is; None: `prompt` is the run's."""
    mask_path: Path | None = None
    mask_sha256: str | None = None
    """The file that says which part of the picture is trained; the picture's own for its transparency; None: none."""
    mask_size_bytes: int | None = None
    times: int = 1
    """How often it comes in a pass, by its folder; `repeats` is for all pictures, and multiplies it."""
    frames: int = 1
    """How many pictures the file holds, of which the first is taken. Not kept in a home: 1 there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file that is to be looked at. `caption` None: it has the run's prompt. `times` as in `Picture`."""

    name: str
    path: Path
    caption: str | None = None
    is_masked: bool = False
    """Look for its mask: in `mask`, or else in its transparency."""
    mask: Path | None = None
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSet:
    """The pictures, sorted by name, and those left out, with the reason. The plan counts in `pictures`' order."""

    pictures: tuple[Picture, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """The different prompts, sorted."""
        return tuple(sorted({picture.prompt for picture in self.pictures}))

    @property
    def times(self) -> tuple[int, ...]:
        """How often each picture comes in a pass; empty where each comes once."""
        found = tuple(picture.times for picture in self.pictures)
        return found if set(found) - {1} else ()

    @property
    def size_bytes(self) -> int:
        return sum(picture.size_bytes + (picture.mask_size_bytes or 0) for picture in self.pictures)

    @property
    def animated(self) -> tuple[str, ...]:
        """The names of files with several pictures."""
        return tuple(picture.name for picture in self.pictures if picture.frames > 1)

    @property
    def masked(self) -> int:
        """How many of the pictures have a mask."""
        return sum(picture.mask_sha256 is not None for picture in self.pictures)


def scan_pictures(
    folder: Path,
    *,
    prompt: str,
    skip_bad: bool = False,
    captions: CaptionChoice | None = None,
    masks: bool | None = None,
) -> PictureSet:
    """The pictures that lie directly in `folder`, each decoded once to prove that it can be; `masks` as `with_masks`.

    If there are none, those in its `concept_folders`. Taken are files with one of SUFFIXES that aren't hidden; of
    anything else there, only what `captions` are read from is looked at (None: no captions). Raises BadInput if there
    are no pictures, for captions that can't be read, and, without `skip_bad`, if a picture can't be read.
    """
    return look_at_files(
        with_masks(find_files(folder, captions or CaptionChoice()), masks),
        where=f"{_INSTANCE}: {folder}",
        prompt=prompt,
        skip_bad=skip_bad,
    )


def find_files(folder: Path, captions: CaptionChoice) -> list[FoundFile]:
    """The picture files of `scan_pictures` with their captions, sorted by name. Raises BadInput as it does."""
    names = sorted(path.name for path in _picture_files(folder, _INSTANCE))
    if names:
        beside = sorted(path.name for path in folder.iterdir() if _CONCEPT.fullmatch(path.name) and path.is_dir())
        if beside:
            _logger.warning(
                "Only the pictures directly in %s are taken: %s and what else lies in sub folders is left out, since "
                "folders with repeats count only where no picture lies beside them.", folder, beside[0],
            )  # fmt: skip
        described = captions_in(folder, names, captions)
        return [FoundFile(name=name, path=folder / name, caption=described.get(name)) for name in names]
    found: list[FoundFile] = []
    for concept in concept_folders(folder):
        names = sorted(path.name for path in _picture_files(concept.path, _INSTANCE))
        described = captions_in(concept.path, names, captions, of_folder=concept.words)
        found += [
            FoundFile(
                name=f"{concept.path.name}/{name}",
                path=concept.path / name,
                caption=described.get(name),
                times=concept.times,
            )
            for name in names
        ]
    if not found:
        raise _nothing_found(folder)
    return sorted(found, key=lambda one: one.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptFolder:
    """A folder such as `10_sks dog`, as kohya's scripts have it: its pictures come 10 times in a pass."""

    path: Path
    times: int
    words: str


def concept_folders(folder: Path) -> tuple[ConceptFolder, ...]:
    """The folders of that kind in `folder`, sorted by name. Those that begin with 0 are left out, as in kohya's.

    Raises BadInput for a number that is no count of repeats, such as a year.
    """
    found: list[ConceptFolder] = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        match = _CONCEPT.fullmatch(path.name)
        if match is None or not path.is_dir():
            continue
        if int(match[1]) > MOST_TIMES:
            raise BadInput(
                f"{path.name} asks for its pictures {match[1]} times in a pass, and {MOST_TIMES} are the most",
                where=f"{_INSTANCE}: {folder}",
                fix="rename it: the number in front of NUMBER_WORDS is one of repeats, as in kohya's scripts",
            )
        found.append(ConceptFolder(path=path, times=int(match[1]), words=" ".join(match[2].split())))
    return tuple(one for one in found if one.times)


def with_masks(
    found: Sequence[FoundFile], masks: bool | None, *, among: Mapping[str, Path] | None = None
) -> list[FoundFile]:
    """The files without those that are masks of others; True: each with its mask. None: masks count as pictures.

    That is how it was before there were masks, and so it stays for a run that was begun then. `among`: all files by
    name, where `found` has only a part of them.
    """
    if masks is None:
        return list(found)
    paths = {one.name: one.path for one in found} | dict(among or {})
    mask_of = masks_among(list(paths))
    return [
        replace(one, is_masked=masks, mask=paths[mask_of[one.name]] if masks and one.name in mask_of else None)
        for one in found
        if one.name not in mask_of.values()
    ]


def scan_held_out(folder: Path, *, prompt: str, skip_bad: bool) -> PictureSet:
    """The pictures in `folder`, by name. Raises BadInput as `scan_pictures` does, and if there are none."""
    files = sorted(_picture_files(folder, _HELD_OUT), key=lambda path: path.name)
    if not files:
        raise BadInput(
            "holds no pictures",
            where=f"{_HELD_OUT}: {folder}",
            fix="put pictures of the subject into it that the run is not trained on, or leave the option out",
        )
    found = with_masks([FoundFile(name=path.name, path=path) for path in files], masks=False)
    return look_at_files(found, where=f"{_HELD_OUT}: {folder}", prompt=prompt, skip_bad=skip_bad)


def scan_class_pictures(
    folder: Path, *, prompt: str, at_most: int, skip_bad: bool = False, masks: bool | None = None
) -> PictureSet:
    """The first `at_most` class pictures in `folder`, by name; none is fine, and so is a folder that isn't there.

    Raises BadInput for what is no folder and, without `skip_bad`, for a picture that can't be read.
    """
    if not folder.exists():
        return PictureSet(pictures=())
    files = sorted(_picture_files(folder, _CLASS), key=lambda path: path.name)
    found = with_masks([FoundFile(name=path.name, path=path) for path in files], None if masks is None else False)
    return look_at_files(
        found[:at_most],
        where=f"{_CLASS}: {folder}",
        prompt=prompt,
        skip_bad=skip_bad,
        may_be_none=True,
    )


def look_at_files(
    files: Sequence[FoundFile], *, where: str, prompt: str, skip_bad: bool, may_be_none: bool = False
) -> PictureSet:
    """Each file decoded once, in the given order; `where` is the option, and the place, that they come from.

    Raises BadInput if none can be read, unless that may be, and, without `skip_bad`, if one can't.
    """
    # Decoding releases the interpreter lock; the order of the results is that of the files.
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="scan") as pool:
        looked_at = list(pool.map(lambda file: _look_at(file, prompt), files))
    pictures = tuple(found for found in looked_at if isinstance(found, Picture))
    skipped = tuple(
        (file.name, str(bad))
        for file, bad in zip(files, looked_at, strict=True)
        if isinstance(bad, UnreadableImageError)
    )
    if skipped and not skip_bad:
        raise _unreadable(where, skipped)
    if not pictures and not may_be_none:
        raise BadInput(
            f"None of the {len(skipped)} pictures can be read; the first, {skipped[0][0]}, {skipped[0][1]}.",
            where=where,
            fix="Put at least one picture there that opens in an image viewer.",
        )
    return PictureSet(pictures=pictures, skipped=skipped)


def _picture_files(folder: Path, option: str) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError as error:
        raise BadInput(
            "There is no such folder.",
            where=f"{option}: {folder}",
            fix="Name the folder that holds your pictures; a relative path starts at the folder you are in.",
        ) from error
    except NotADirectoryError as error:
        raise BadInput(
            "That is a file, not a folder.", where=f"{option}: {folder}", fix=f"Try {folder.parent}."
        ) from error
    except OSError as error:
        raise BadInput(
            f"The folder can't be opened: {error.strerror}.",
            where=f"{option}: {folder}",
            fix="Check who owns it, or copy the pictures to a folder of your own.",
        ) from error
    for entry in entries:
        # Names with a dot in front are the system's: .DS_Store, and macOS' ._photo.jpg, which isn't a picture.
        is_hidden = entry.name.startswith(".")
        if not is_hidden and Path(entry.name).suffix.lower() in SUFFIXES and not entry.is_dir():
            yield Path(entry.path)


def _look_at(file: FoundFile, prompt: str) -> Picture | UnreadableImageError:
    """One picture measured and hashed, or why not. An unreadable one is a result here: all of them are to be named."""
    try:
        body = file.path.read_bytes()
    except OSError as error:
        return UnreadableImageError(f"can't be opened: {error.strerror}")
    try:
        image = decode_rgb(body)
    except UnreadableImageError as bad:
        if Path(file.name).suffix.lower() in (".heic", ".heif"):
            return UnreadableImageError("is HEIC, which can't be read here; convert it to JPEG or PNG")
        return bad
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        return UnreadableImageError(f"is a strip of {image.width} x {image.height} pixels; crop it")
    mask = None
    if file.is_masked:
        try:
            mask = look_at_mask(file.mask, file.path, body, width=image.width, height=image.height)
        except UnreadableImageError as bad:
            return bad
    return Picture(
        name=file.name,
        path=file.path,
        sha256=hashlib.sha256(body).hexdigest(),
        size_bytes=len(body),
        width=image.width,
        height=image.height,
        prompt=file.caption or prompt,
        caption=file.caption,
        mask_path=mask.path if mask else None,
        mask_sha256=mask.sha256 if mask else None,
        mask_size_bytes=mask.size_bytes if mask else None,
        times=file.times,
        frames=frames_in(body),
    )


def _unreadable(where: str, skipped: tuple[tuple[str, str], ...]) -> BadInput:
    named = "; ".join(f"{name} {reason}" for name, reason in skipped[:_NAMED_AT_MOST])
    more = f"; and {len(skipped) - _NAMED_AT_MOST} more" if len(skipped) > _NAMED_AT_MOST else ""
    return BadInput(
        f"{len(skipped)} picture{'s' if len(skipped) > 1 else ''} can't be read: {named}{more}.",
        where=where,
        fix="Repair or remove what is named, or go on without it: --skip-bad-images",
    )


def _nothing_found(folder: Path) -> BadInput:
    """No pictures: say what was looked for, what lies there instead, and where pictures do lie close by."""
    nearby = itertools.islice(folder.glob("*/*"), _LOOKED_AT_BELOW)
    below = Counter(path.parent.name for path in nearby if path.suffix.lower() in SUFFIXES)
    if below:
        subfolder, count = below.most_common(1)[0]
        fix = f"Sub folders aren't searched; {count} pictures lie in {folder / subfolder}: name that folder."
    else:
        fix = "Put the pictures of your subject directly into it; 5 to 20 are usual."
    others = sum(1 for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    beside = f"; {others} other file{'s' if others > 1 else ''} there" if others else ""
    return BadInput(
        f"No pictures found: looked for {', '.join(SUFFIXES)}{beside}.", where=f"instance_data_dir: {folder}", fix=fix
    )
