"""Looks through the pictures of a run before it is begun, for what is better known now than after six hours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from dreambooth_resume.config.options.data import DataOptions
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.buckets import Bucket, nearest_bucket, summary, wished_buckets
from dreambooth_resume.data.captions import ENDINGS
from dreambooth_resume.data.dataset import Picture
from dreambooth_resume.data.images import decode_rgb, frames_in
from dreambooth_resume.workflows.sources import scan_source, source_name

_ALIKE_BITS = 5
"""Of the 64 bits of two pictures' hashes so many may differ: the same picture smaller, brighter or compressed again."""
_WORKERS = 4
_COMMON_WORDS = frozenset(
    "a an and at by close closeup drawing from her his illustration image in is my of on one painting photo photograph "
    "picture portrait render shot style that the their this to up with".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedPicture:
    """A picture, and what it is cut to. It comes `times` in a pass; `notes` say what is odd about it."""

    name: str
    width: int
    height: int
    size_bytes: int
    shape: str
    times: int
    caption: str | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheck:
    """What was found. Names are as a run would have them; `unreadable` has names with reasons."""

    source: str
    resolution: int
    pictures: tuple[CheckedPicture, ...]
    unreadable: tuple[tuple[str, str], ...]
    samples_in_a_pass: int
    size_bytes: int
    shapes: str
    enlarged: tuple[str, ...]
    """Smaller than what they are cut to."""
    animated: tuple[str, ...]
    """Of which the first frame is taken."""
    copies: tuple[tuple[str, ...], ...]
    """Groups of the same bytes."""
    alike: tuple[tuple[str, ...], ...]
    """Groups that look nearly the same."""
    without_caption: tuple[str, ...]
    blank_captions: tuple[str, ...]
    """Those with a caption file that has nothing in it."""
    trigger_word: str | None
    without_trigger: tuple[str, ...]
    """Captions that lack the trigger word."""
    files: dict[str, Path] = field(default_factory=dict, repr=False)
    """Where each picture lies, for a contact sheet."""


def check_data(
    options: TrainOptions,
    *,
    trigger_word: str | None = None,
    on_picture: Callable[[int, int], None] = lambda _done, _total: None,
) -> DataCheck:
    """Look at every picture that a run with these options (`decided` as at its first start) would train on.

    Nothing is written. Unreadable pictures are a result. Raises BadInput for what no run could begin with: no pictures,
    captions that can't be read.
    """
    data, found = options.data, scan_source(options, skip_bad=True)
    looks = _look(found.pictures, on_picture)
    shapes = _shapes(found.pictures, data)
    notes = _Notes(found.pictures)
    pairs = list(zip(found.pictures, shapes, strict=True))
    enlarged = notes.take("small", (one for one, cut in pairs if one.width < cut.width or one.height < cut.height))
    animated = notes.take("animated", (one for one, look in zip(found.pictures, looks, strict=True) if look.frames > 1))
    copies = notes.take_groups("copy", _same_bytes(found.pictures))
    alike = notes.take_groups("alike", _alike(found.pictures, [look.hash for look in looks]))
    bare = [one for one in found.pictures if one.caption is None]
    blank = notes.take("blank caption", (one for one in bare if _has_caption_file(one.path)))
    lacking = (one for one in found.pictures if trigger_word and one.caption and not _names(one.caption, trigger_word))
    without_trigger = notes.take("no trigger word", lacking)
    return DataCheck(
        source=source_name(options),
        resolution=data.resolution,
        pictures=tuple(_checked(one, cut, notes.of(one)) for one, cut in pairs),
        unreadable=found.skipped,
        samples_in_a_pass=sum(one.times for one in found.pictures) * data.repeats,
        size_bytes=found.size_bytes,
        shapes=summary(shapes),
        enlarged=enlarged,
        animated=animated,
        copies=copies,
        alike=alike,
        without_caption=tuple(one.name for one in bare),
        blank_captions=blank,
        trigger_word=trigger_word,
        without_trigger=without_trigger,
        files={one.name: one.path for one in found.pictures},
    )


def uncommon_word(prompt: str) -> str | None:
    """The first word of a prompt that isn't in every other one: "sks" in "a photo of sks dog"."""
    words = (word.strip(".,;:!?\"'()") for word in prompt.split())
    return next((word for word in words if word and word.casefold() not in _COMMON_WORDS), None)


def difference_hash(image: Image.Image) -> int:
    """64 bits: is each of 8 x 8 places brighter than its left neighbour? Survives resizing and compression.

    Source: dHash, Krawetz 2013, "Kind of Like That".
    """
    grey_HW = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    return int.from_bytes(np.packbits(grey_HW[:, 1:] > grey_HW[:, :-1]).tobytes())


class _Notes:
    """Collects what is odd about which picture."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._notes: dict[str, list[str]] = {picture.name: [] for picture in pictures}

    def take(self, note: str, pictures: Iterable[Picture]) -> tuple[str, ...]:
        names = tuple(picture.name for picture in pictures)
        for name in names:
            self._notes[name].append(note)
        return names

    def take_groups(self, note: str, groups: Iterable[Sequence[Picture]]) -> tuple[tuple[str, ...], ...]:
        return tuple(self.take(f"{note} {number}", group) for number, group in enumerate(groups, start=1))

    def of(self, picture: Picture) -> tuple[str, ...]:
        return tuple(self._notes[picture.name])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    hash: int
    frames: int


def _look(pictures: Sequence[Picture], on_picture: Callable[[int, int], None]) -> list[_Look]:
    looks: list[_Look] = []
    on_picture(0, len(pictures))
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="check") as pool:
        for look in pool.map(_look_at, (picture.path for picture in pictures)):
            looks.append(look)
            on_picture(len(looks), len(pictures))
    return looks


def _look_at(path: Path) -> _Look:
    body = path.read_bytes()
    return _Look(hash=difference_hash(decode_rgb(body)), frames=frames_in(body))


def _shapes(pictures: Sequence[Picture], data: DataOptions) -> list[Bucket]:
    """What each is cut to, as a new run decides it: to buckets if there are several shapes, and not told otherwise."""
    square = Bucket(height=data.resolution, width=data.resolution)
    if data.use_aspect_ratio_buckets is False:
        return [square] * len(pictures)
    buckets = wished_buckets(data)
    return [nearest_bucket(picture.width, picture.height, buckets) for picture in pictures]


def _same_bytes(pictures: Sequence[Picture]) -> list[list[Picture]]:
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.sha256, []).append(picture)
    return [group for group in groups.values() if len(group) > 1]


def _alike(pictures: Sequence[Picture], hashes: Sequence[int]) -> list[list[Picture]]:
    """Groups in which each looks like another one, of the first picture of each content."""
    first = {picture.sha256: number for number, picture in reversed(list(enumerate(pictures)))}
    numbers = sorted(first.values())
    known = np.array([hashes[number] for number in numbers], dtype=np.uint64)
    group_of = list(range(len(numbers)))
    for place in range(len(numbers)):
        near = np.flatnonzero(np.bitwise_count(known[:place] ^ known[place]) <= _ALIKE_BITS).tolist()
        joined = {group_of[other] for other in near}
        group_of = [place if group in joined else group for group in group_of]
    groups: dict[int, list[Picture]] = {}
    for place, group in enumerate(group_of):
        groups.setdefault(group, []).append(pictures[numbers[place]])
    return [group for group in groups.values() if len(group) > 1]


def _has_caption_file(picture: Path) -> bool:
    return any(picture.with_suffix(ending).is_file() for ending in ENDINGS)


def _names(caption: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE) is not None


def _checked(picture: Picture, shape: Bucket, notes: tuple[str, ...]) -> CheckedPicture:
    return CheckedPicture(
        name=picture.name,
        width=picture.width,
        height=picture.height,
        size_bytes=picture.size_bytes,
        shape=str(shape),
        times=picture.times,
        caption=picture.caption,
        notes=notes,
    )
