"""A run on a data set with a caption for each picture, killed, and taken up where there is nothing but the home."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from dreambooth_resume.data.inputs import INPUTS_LIST, read_list
from dreambooth_resume.storage.local import LocalStorage
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, result_digests

CAPTIONS = {"robot-1.png": "a photo of sks robot in the red", "robot-2.png": "", "robot-3.png": "a small toy"}


@pytest.fixture(scope="module")
def dataset(bench: Bench) -> Path:
    folder = bench.folder / "captioned"
    shutil.copytree(bench.pictures, folder)
    rows = [{"file_name": name, "text": text} for name, text in CAPTIONS.items()]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_killed_and_resumed_without_the_data_set(
    dataset: Path, bench: Bench, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    captioned: dict[str, object] = {"instance_data_dir": None, "caption_column": "text", "repeats": 2}
    folder = tmp_path / "dataset"
    shutil.copytree(dataset, folder)
    process = bench.start(home, dataset_name=folder, **captioned)  # type: ignore[arg-type]
    process.wait_until_durable(home)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    shutil.rmtree(folder)
    moved = tmp_path / "moved"
    home.rename(moved)
    listed = read_list(LocalStorage(moved), INPUTS_LIST)
    assert listed is not None
    assert {one.name: one.caption or "" for one in listed.pictures} == CAPTIONS
    bench.run(moved, dataset_name=folder, **captioned)
    assert result_digests(moved) == undisturbed(dataset_name=dataset, **captioned)
    # The captions are what it was trained with: the same pictures under one prompt make another LoRA.
    assert result_digests(moved) != undisturbed(dataset_name=dataset, instance_data_dir=None, repeats=2)
