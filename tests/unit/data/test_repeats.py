"""kohya's folders with repeats: how often each picture comes, in the plan, the home's list and the fingerprint."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_resume.data.buckets import Bucket
from dreambooth_resume.data.captions import CaptionChoice
from dreambooth_resume.data.dataset import scan_pictures
from dreambooth_resume.data.fingerprint import dataset_fingerprint
from dreambooth_resume.data.inputs import INPUTS_LIST, load_inputs, read_list, store_inputs
from dreambooth_resume.data.plan import Part, Plan, in_segments
from dreambooth_resume.errors import BadInput
from tests.fakes.memory_storage import MemoryStorage

from .conftest import DrawPicture

AUTO = CaptionChoice(strategy="auto")
SQUARE, TALL = Bucket(height=64, width=64), Bucket(height=128, width=64)


@pytest.fixture
def folder(pictures_folder: Path, draw: DrawPicture) -> Path:
    for number, name in enumerate(("3_sks dog/a.png", "3_sks dog/b.png", "1_sks  dog in snow/c.png", "0_not/d.png")):
        (pictures_folder / name).parent.mkdir(exist_ok=True)
        draw(name, seed=number)
    (pictures_folder / "3_sks dog" / "b.txt").write_text("its own")
    (pictures_folder / "other").mkdir()
    return pictures_folder


def test_the_folders_say_how_often_and_what_else_the_prompt_is(folder: Path) -> None:
    found = scan_pictures(folder, prompt="p", captions=AUTO)
    assert {picture.name: (picture.prompt, picture.times) for picture in found.pictures} == {
        "1_sks  dog in snow/c.png": ("sks dog in snow", 1),
        "3_sks dog/a.png": ("sks dog", 3),
        "3_sks dog/b.png": ("its own", 3),
    }
    assert found.times == (1, 3, 3)
    assert {picture.prompt for picture in scan_pictures(folder, prompt="p").pictures} == {"p"}


def test_a_picture_beside_the_folders_leaves_them_out_and_says_so(
    folder: Path, draw: DrawPicture, caplog: pytest.LogCaptureFixture
) -> None:
    draw("beside.png")
    with caplog.at_level(logging.WARNING):
        found = scan_pictures(folder, prompt="p", captions=AUTO)
    assert [picture.name for picture in found.pictures] == ["beside.png"]
    assert found.times == ()
    assert "0_not" in caplog.text


def test_a_year_is_no_number_of_repeats(pictures_folder: Path, draw: DrawPicture) -> None:
    (pictures_folder / "2024_holiday").mkdir()
    draw("2024_holiday/a.png")
    with pytest.raises(BadInput, match="2024_holiday asks for its pictures 2024 times"):
        scan_pictures(pictures_folder, prompt="p")


def test_the_home_keeps_them_and_lists_without_them_are_as_before(folder: Path, tmp_path: Path) -> None:
    storage = MemoryStorage()
    found = scan_pictures(folder, prompt="p", captions=AUTO)
    assert store_inputs(storage, found)
    loaded = load_inputs(storage, tmp_path / "stage", prompt="p")
    assert loaded is not None
    assert loaded.times == (1, 3, 3)
    assert dataset_fingerprint(loaded.pictures) == dataset_fingerprint(found.pictures)
    once = [replace(picture, times=1) for picture in found.pictures]
    assert dataset_fingerprint(once) != dataset_fingerprint(found.pictures)
    listed = read_list(storage, INPUTS_LIST)
    assert listed is not None
    assert [line.times for line in listed.pictures] == [None, 3, 3]
    assert b'"times":null' not in storage.read(INPUTS_LIST).replace(b" ", b"")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(1, 3), st.booleans(), st.integers(1, 5))
def test_a_pass_has_each_picture_as_often_as_asked(
    times: list[int], repeats: int, with_buckets: bool, batch_size: int
) -> None:
    buckets = tuple((SQUARE, TALL)[index % 2] for index in range(len(times))) if with_buckets else ()
    plan = Plan(
        seed=3, picture_count=len(times), batch_size=batch_size, repeats=repeats, times=tuple(times), buckets=buckets
    )
    assert plan.epoch_length == sum(times) * repeats
    steps = -(-2 * plan.epoch_length // batch_size)
    slots = [slot for step in range(steps) for slot in plan.batch(step)]
    for number in range(2):
        seen = Counter(slot.picture for slot in slots[number * plan.epoch_length : (number + 1) * plan.epoch_length])
        assert seen == {picture: count * repeats for picture, count in enumerate(times)}
    assert all(slot.bucket == (buckets[slot.picture] if buckets else None) for slot in slots)


def test_pictures_that_come_once_each_make_the_plan_that_there_was() -> None:
    plain = Plan(seed=0, picture_count=5, batch_size=2)
    once = replace(plain, times=(1,) * 5)
    assert [once.batch(step) for step in range(20)] == [plain.batch(step) for step in range(20)]


def test_each_segment_has_its_own() -> None:
    plan = Plan(seed=1, picture_count=2, batch_size=1, times=(3, 1))
    parts = [
        Part(first_step=0, picture_count=2, times=(3, 1)),
        Part(first_step=4, picture_count=2, times=(1, 2)),
    ]
    whole = in_segments(plan, parts)
    seen = [slot.picture for step in range(7) for slot in whole.batch(step)]
    assert Counter(seen[:4]) == {0: 3, 1: 1}
    assert Counter(seen[4:]) == {2: 1, 3: 2}
    with pytest.raises(ValueError, match="numbers of times"):
        Plan(seed=1, picture_count=2, batch_size=1, times=(1, 0))
