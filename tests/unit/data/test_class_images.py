"""Class pictures that are made: kept one by one, the same whatever was there already, and never silently replaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dreambooth_resume.data.class_images import (
    MADE_LIST,
    Making,
    Pixels,
    as_pictures,
    complete,
    noted_pictures,
    starting_noise,
)
from dreambooth_resume.data.inputs import INPUTS_PREFIX, StoredPicture, input_key
from dreambooth_resume.data.transforms import CropOptions, load_pixels, variant_crop
from dreambooth_resume.errors import ComeBack, RefusedToGoOn
from tests.fakes.memory_storage import MemoryStorage

MAKING = Making(recipe={"kind": "class picture", "prompt": "a dog"}, count=5, batch_size=2)


class Painter:
    """Pictures that depend on the whole batch, as a GPU's last bits do. `machine` stands for another kind of one."""

    def __init__(self, *, machine: int = 0, stop_at: int | None = None) -> None:
        self.batches: list[range] = []
        self._machine = machine
        self._stop_at = stop_at

    def __call__(self, numbers: range) -> Sequence[Pixels] | None:
        self.batches.append(numbers)
        if self._stop_at is not None and self._stop_at in numbers:
            return None
        return [
            np.random.default_rng([number, *numbers, self._machine]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
            for number in numbers
        ]


def made(
    storage: MemoryStorage, stage: Path, painter: Painter, *, making: Making = MAKING, stops: bool = False
) -> tuple[StoredPicture, ...] | None:
    return complete(storage, stage, making, painter, should_stop=lambda: stops, on_progress=lambda done, total: None)


@pytest.fixture
def whole(tmp_path: Path) -> tuple[StoredPicture, ...]:
    """What an undisturbed run makes."""
    pictures = made(MemoryStorage(), tmp_path / "undisturbed", Painter())
    assert pictures is not None
    return pictures


def test_golden_noise() -> None:
    noise = starting_noise(0, 3, (4, 2, 2))
    assert [float(value).hex() for value in noise.ravel()[:3]] == GOLDEN_NOISE
    assert len({starting_noise(0, number, (4, 2, 2)).tobytes() for number in range(20)}) == 20


GOLDEN_NOISE = ["0x1.19cef60000000p+1", "0x1.5c9ef60000000p-3", "-0x1.208ca20000000p+0"]


def test_made_once_they_are_listed_and_never_made_again(tmp_path: Path, whole: tuple[StoredPicture, ...]) -> None:
    storage, painter, again = MemoryStorage(), Painter(), Painter()
    told: list[tuple[int, int]] = []
    complete(
        storage, tmp_path, MAKING, painter,
        should_stop=lambda: False, on_progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert painter.batches == [range(2), range(2, 4), range(4, 5)]
    assert told == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert [picture.name for picture in whole] == [f"class-000{number}.png" for number in range(1, 6)]
    assert made(storage, tmp_path / "new machine", again) == whole
    assert again.batches == []
    assert set(noted_pictures(storage)) == {picture.sha256 for picture in whole}


@pytest.mark.parametrize("allowed", range(12))
def test_killed_at_any_write_the_rest_is_the_same_as_without(
    allowed: int, tmp_path: Path, whole: tuple[StoredPicture, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of which one picture is there already is made whole again, so that the other has the same bits."""
    storage = MemoryStorage()
    put, writes = storage.put_if_absent, []

    def put_until_killed(key: str, body: bytes) -> bool:
        if len(writes) == allowed:
            raise KeyboardInterrupt
        writes.append(key)
        return put(key, body)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "put_if_absent", put_until_killed)
        try:
            made(storage, tmp_path / "first", Painter())
        except KeyboardInterrupt:
            assert len(writes) == allowed
    assert made(storage, tmp_path / "second", Painter()) == whole


def test_told_to_stop_finished_batches_are_kept(tmp_path: Path, whole: tuple[StoredPicture, ...]) -> None:
    storage, rest = MemoryStorage(), Painter()
    assert made(storage, tmp_path, Painter(), stops=True) is None
    assert not storage.objects
    assert made(storage, tmp_path, Painter(stop_at=3)) is None
    assert set(noted_pictures(storage)) == {picture.sha256 for picture in whole[:2]}
    assert made(storage, tmp_path, rest) == whole
    assert rest.batches == [range(2, 4), range(4, 5)]


def test_a_lost_or_torn_picture_is_made_again_to_the_same_bytes(
    tmp_path: Path, whole: tuple[StoredPicture, ...]
) -> None:
    storage = MemoryStorage()
    made(storage, tmp_path / "first", Painter())
    before = dict(storage.objects)
    del storage.objects[input_key(whole[1].sha256)]
    storage.objects[input_key(whole[4].sha256)] = b"torn"
    assert made(storage, tmp_path / "second", Painter()) == whole
    assert storage.objects == before


def test_a_lost_picture_of_another_kind_of_machine_is_refused_once_all_are_listed(tmp_path: Path) -> None:
    storage = MemoryStorage()
    pictures = made(storage, tmp_path / "first", Painter())
    assert pictures is not None
    del storage.objects[input_key(pictures[1].sha256)]
    with pytest.raises(RefusedToGoOn, match=r"class-0002\.png: the run's own copy of this picture is missing.*like"):
        made(storage, tmp_path / "second", Painter(machine=1))


def test_before_all_are_there_another_machine_may_make_what_was_lost(tmp_path: Path) -> None:
    storage = MemoryStorage()
    assert made(storage, tmp_path / "first", Painter(stop_at=3)) is None
    lost, kept = sorted(noted_pictures(storage))
    del storage.objects[input_key(lost)]
    pictures = made(storage, tmp_path / "second", Painter(machine=1))
    assert pictures is not None
    digests = {picture.sha256 for picture in pictures}
    assert kept in digests
    assert lost not in digests


def test_a_damaged_note_is_written_again(tmp_path: Path, whole: tuple[StoredPicture, ...]) -> None:
    storage = MemoryStorage()
    assert made(storage, tmp_path / "first", Painter(stop_at=4)) is None
    for number, body in enumerate((b"", b"{}", b"[1]", b'{"picture": 3, "sha256": "0"}')):
        storage.objects[MAKING.note_key(number)] = body
    assert list(noted_pictures(storage)) == []
    assert made(storage, tmp_path / "second", Painter()) == whole
    assert len(storage.list(INPUTS_PREFIX)) == 5


def test_the_note_that_came_first_counts(tmp_path: Path, whole: tuple[StoredPicture, ...]) -> None:
    """Another attempt, frozen and awake again, makes the same pictures on another machine at the same time."""
    storage = MemoryStorage()

    class Overtaken(Painter):
        def __call__(self, numbers: range) -> Sequence[Pixels] | None:
            made(storage, tmp_path / "other", Painter(), making=MAKING)
            return super().__call__(numbers)

    assert made(storage, tmp_path / "mine", Overtaken(machine=1)) == whole


def test_another_list_at_the_end_is_no_set_to_train_on(tmp_path: Path) -> None:
    storage = MemoryStorage()

    class ListedByAnother(Painter):
        def __call__(self, numbers: range) -> Sequence[Pixels] | None:
            storage.objects[MADE_LIST] = b'{"format":1,"pictures":[]}'
            return super().__call__(numbers)

    with pytest.raises(ComeBack, match="Another attempt"):
        made(storage, tmp_path, ListedByAnother())


def test_pictures_are_files_that_can_be_cropped(tmp_path: Path) -> None:
    storage = MemoryStorage()
    stored = made(storage, tmp_path, Painter())
    assert stored is not None
    pictures = as_pictures(storage, tmp_path / "new machine", stored, prompt="a dog")
    assert [(one.prompt, one.width, one.height) for one in pictures] == [("a dog", 8, 6)] * 5
    crop = variant_crop(pictures[0], 0, seed=0, options=CropOptions(resolution=6, center_crop=True, random_flip=False))
    assert load_pixels(pictures[0], crop, interpolation="lanczos").shape == (3, 6, 6)


def test_a_recipe_of_another_kind_has_notes_of_its_own() -> None:
    other = Making(recipe={**MAKING.recipe, "prompt": "a cat"}, count=5, batch_size=2)
    keys = {making.note_key(number) for making in (MAKING, other) for number in range(5)}
    assert len(keys) == 10


def test_none_to_make_is_an_empty_list(tmp_path: Path) -> None:
    storage = MemoryStorage()
    nothing = Making(recipe=MAKING.recipe, count=0, batch_size=4)
    assert made(storage, tmp_path, Painter(), making=nothing) == ()
    assert made(storage, tmp_path, Painter(), making=nothing) == ()
