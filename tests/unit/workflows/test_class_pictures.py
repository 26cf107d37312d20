"""Where a run's class pictures come from, before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.dataset import PictureSet
from dreambooth_resume.data.fingerprint import dataset_fingerprint
from dreambooth_resume.data.inputs import CLASS_INPUTS_LIST, store_inputs
from dreambooth_resume.errors import BadInput, RefusedToGoOn
from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.runs.record import Pins, new_record
from dreambooth_resume.workflows import wording
from dreambooth_resume.workflows.class_pictures import class_picture_bytes, find_class_pictures
from dreambooth_resume.workflows.home import Home, find_place, open_home


def home_in(folder: Path) -> Home:
    return open_home(find_place(parse_train(["--output_dir", str(folder)])))


def options(*words: str) -> TrainOptions:
    required = "--pretrained_model_name_or_path model --instance_data_dir pictures --instance_prompt sks".split()
    prior = ["--with_prior_preservation", "--class_prompt", "a robot", "--num_class_images", "5"]
    return resolve(parse_train([*required, *prior, *words]), recorded=None)


def begun(home: Home, pictures: PictureSet, *, stored: bool = True) -> Home:
    """The home of a run that was begun with these class pictures."""
    if stored:
        store_inputs(home.storage, pictures, list_key=CLASS_INPUTS_LIST)
    pins = Pins(base_model={}, dataset="", class_pictures=dataset_fingerprint(pictures.pictures))
    return replace(home, record=new_record(options={}, seed=1, effective_batch=1, block_size=1, pins=pins, numerics={}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for extra in draw_pictures(tmp_path / "class")[3:]:
        extra.unlink()
    return tmp_path / "class"


def test_the_folders_come_first_and_the_rest_is_made(folder: Path, tmp_path: Path) -> None:
    home = home_in(tmp_path / "home")
    found = find_class_pictures(home, options("--class_data_dir", str(folder)))
    assert found is not None
    assert [picture.name for picture in found.found] == ["robot-1.png", "robot-2.png", "robot-3.png"]
    assert {picture.prompt for picture in found.found} == {"a robot"}
    assert (found.count, found.to_make, found.folder_changed) == (5, 2, False)
    sizes = sum(picture.size_bytes for picture in found.found)
    assert class_picture_bytes(home, found, side=64) == sizes + 2 * 64 * 64 * 3
    assert wording.class_pictures(found) == (
        "5 class pictures (3 from the folder, 2 of the base model's making): a robot\n"
    )


def test_of_more_than_asked_for_the_first_by_name_are_taken(folder: Path, tmp_path: Path) -> None:
    chosen = options("--class_data_dir", str(folder), "--num_class_images", "2")
    found = find_class_pictures(home_in(tmp_path / "home"), chosen)
    assert found is not None
    assert [picture.name for picture in found.found] == ["robot-1.png", "robot-2.png"]
    assert found.to_make == 0


@pytest.mark.parametrize("words", [(), ("--class_data_dir", "nowhere")])
def test_without_a_folder_all_are_made(words: tuple[str, ...], tmp_path: Path) -> None:
    found = find_class_pictures(home_in(tmp_path / "home"), options(*words))
    assert found is not None
    assert (found.found, found.to_make) == ((), 5)


def test_an_empty_folder_is_one_to_be_filled_and_a_file_is_refused(tmp_path: Path) -> None:
    empty, file = tmp_path / "empty", tmp_path / "file.png"
    empty.mkdir()
    file.write_bytes(b"x")
    found = find_class_pictures(home_in(tmp_path / "home"), options("--class_data_dir", str(empty)))
    assert found is not None
    assert found.to_make == 5
    with pytest.raises(BadInput, match="a file, not a folder") as refusal:
        find_class_pictures(home_in(tmp_path / "home"), options("--class_data_dir", str(file)))
    assert str(refusal.value.where).startswith("class_data_dir")


def test_a_damaged_class_picture_is_named_with_its_option(folder: Path, tmp_path: Path) -> None:
    (folder / "robot-2.png").write_bytes(b"torn")
    with pytest.raises(BadInput, match=r"robot-2\.png") as refusal:
        find_class_pictures(home_in(tmp_path / "home"), options("--class_data_dir", str(folder)))
    assert str(refusal.value.where).startswith("class_data_dir")
    found = find_class_pictures(
        home_in(tmp_path / "home"), options("--class_data_dir", str(folder), "--skip_bad_images")
    )
    assert found is not None
    assert found.to_make == 3


def test_on_a_resume_the_homes_copies_count_and_a_changed_folder_is_said(folder: Path, tmp_path: Path) -> None:
    chosen = options("--class_data_dir", str(folder))
    first = find_class_pictures(home_in(tmp_path / "home"), chosen)
    assert first is not None
    home = begun(home_in(tmp_path / "home"), PictureSet(pictures=first.found))
    (folder / "robot-1.png").write_bytes(b"torn")
    (folder / "robot-2.png").unlink()
    again = find_class_pictures(home, chosen)
    assert again is not None
    assert dataset_fingerprint(again.found) == dataset_fingerprint(first.found)
    assert again.folder_changed
    assert "goes on with its own copies" in wording.class_pictures(again)
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()
    without = find_class_pictures(home, chosen)
    assert without is not None
    assert (len(without.found), without.folder_changed) == (3, False)


def test_without_copies_in_the_home_a_changed_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    chosen = options("--class_data_dir", str(folder))
    first = find_class_pictures(home_in(tmp_path / "home"), chosen)
    assert first is not None
    home = begun(home_in(tmp_path / "home"), PictureSet(pictures=first.found), stored=False)
    assert find_class_pictures(home, chosen) is not None
    (folder / "robot-2.png").unlink()
    with pytest.raises(RefusedToGoOn, match="are not those that the run in"):
        find_class_pictures(home, chosen)
