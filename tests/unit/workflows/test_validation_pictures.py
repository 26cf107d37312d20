"""Where held-out pictures come from: the folder at first, the home's own copies from then on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.data.inputs import store_inputs
from dreambooth_resume.errors import BadInput
from dreambooth_resume.models.tiny_pictures import draw_pictures
from dreambooth_resume.workflows.home import Home, find_place, open_home
from dreambooth_resume.workflows.launch import COPIED
from dreambooth_resume.workflows.validation_pictures import find_validation_pictures


def home_in(folder: Path) -> Home:
    return open_home(find_place(parse_train(["--output_dir", str(folder)])))


def options(*words: str) -> TrainOptions:
    required = "--pretrained_model_name_or_path model --instance_data_dir pictures --instance_prompt sks".split()
    return resolve(parse_train([*required, *words]), recorded=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for extra in draw_pictures(tmp_path / "held-out")[2:]:
        extra.unlink()
    return tmp_path / "held-out"


def test_without_the_option_there_are_none(tmp_path: Path) -> None:
    assert find_validation_pictures(home_in(tmp_path / "home"), options()) is None


def test_the_folder_counts_until_its_pictures_are_in_the_home(folder: Path, tmp_path: Path) -> None:
    home, chosen = home_in(tmp_path / "home"), options("--validation_data_dir", str(folder))
    found = find_validation_pictures(home, chosen)
    assert found is not None
    assert [picture.name for picture in found.pictures.pictures] == ["robot-1.png", "robot-2.png"]
    assert {picture.prompt for picture in found.pictures.pictures} == {"sks"}
    ((list_key, pictures),) = found.to_store
    assert list_key == "validation_inputs.json"
    store_inputs(home.storage, pictures, list_key=list_key)

    (folder / "robot-1.png").unlink()
    again = find_validation_pictures(home, chosen)
    assert again is not None
    assert [one.sha256 for one in again.pictures.pictures] == [one.sha256 for one in pictures.pictures]
    assert again.to_store == ()
    assert "holds other pictures than at the run's first measurement" in again.remark
    assert "the run's own 2" in again.remark


def test_a_folder_that_is_as_it_was_or_gone_is_no_news(folder: Path, tmp_path: Path) -> None:
    home, chosen = home_in(tmp_path / "home"), options("--validation_data_dir", str(folder))
    found = find_validation_pictures(home, chosen)
    assert found is not None
    store_inputs(home.storage, found.pictures, list_key=found.to_store[0][0])
    for kept in (2, 0):
        for one in sorted(folder.iterdir())[kept:]:
            one.unlink()
        again = find_validation_pictures(home, chosen)
        assert again is not None
        assert again.remark == ""


def test_a_folder_that_is_gone_and_was_never_copied_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder") as refusal:
        find_validation_pictures(home_in(tmp_path / "home"), options("--validation_data_dir", str(tmp_path / "gone")))
    assert str(refusal.value.where).startswith("validation_data_dir")


def test_a_launch_copies_them() -> None:
    assert "validation_data_dir" in COPIED
