"""Captions beside pictures, dropped and shuffled, in folders with repeats: killed, and taken up with only the home."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from dreambooth_resume.data.inputs import INPUTS_LIST, read_list
from dreambooth_resume.runs.entries import sealed, unsealed
from dreambooth_resume.runs.home import RUN
from dreambooth_resume.storage.local import LocalStorage
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, log_of, result_digests

DRAWS: dict[str, object] = {"caption_dropout": 0.4, "shuffle_caption": True, "keep_tokens": 1}


@pytest.fixture(scope="module")
def folders(bench: Bench) -> Path:
    """The test pictures in two folders with repeats, one picture with tags beside it."""
    root = bench.folder / "folders"
    first, *others = sorted(bench.pictures.iterdir())
    for name, pictures in {"2_sks robot, red, small": [first], "1_sks robot in the snow": others}.items():
        (root / name).mkdir(parents=True)
        for picture in pictures:
            shutil.copy(picture, root / name)
    tags = root / "1_sks robot in the snow" / f"{others[0].stem}.txt"
    tags.write_text("sks robot, snow, side view, far away")
    return root


@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_killed_and_resumed_without_the_folders(
    train_text_encoder: bool, folders: Path, bench: Bench, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    options = {**DRAWS, "train_text_encoder": train_text_encoder}
    copied = tmp_path / "copied"
    shutil.copytree(folders, copied)
    process = bench.start(home, instance_data_dir=copied, **options)  # type: ignore[arg-type]
    process.wait_until_durable(home)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    assert "with the repeats of their folders" in process.output()
    shutil.rmtree(copied)
    moved = tmp_path / "moved"
    home.rename(moved)
    words = ["train", "--output_dir", str(moved), "--resume", "latest"]
    process = bench.command(moved, words)
    assert process.wait() == 0, process.output()
    assert result_digests(moved) == undisturbed(instance_data_dir=folders, **options)
    if not train_text_encoder:
        assert result_digests(moved) != undisturbed(instance_data_dir=folders), "the draws make another LoRA"


def test_other_repeats_are_named_and_can_begin_a_segment(
    folders: Path, bench: Bench, home: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(folders, copied)
    bench.run(home, instance_data_dir=copied, max_train_steps=2)
    (copied / "2_sks robot, red, small").rename(copied / "5_sks robot, red, small")
    process = bench.start(home, instance_data_dir=copied, max_train_steps=4)
    assert process.wait() == 78
    changed = {"instance_data_dir": copied, "max_train_steps": 4, "on_data_change": "continue"}
    bench.run(home, **changed)
    last = log_of(home).last
    assert last is not None
    (segment,) = last.state.segments
    listed = read_list(LocalStorage(home), f"inputs-{segment.fingerprint}.json")
    first = read_list(LocalStorage(home), INPUTS_LIST)
    assert listed is not None
    assert first is not None
    assert sorted({line.times for line in listed.pictures}, key=str) == [5, None]
    assert sorted({line.times for line in first.pictures}, key=str) == [2, None]


def test_a_run_of_an_earlier_release_goes_on_without_captions(
    bench: Bench, undisturbed: Undisturbed, home: Path, tmp_path: Path
) -> None:
    """Its run.json knows no captions, and there have been files beside its pictures all the time."""
    folder = tmp_path / "pictures"
    shutil.copytree(bench.pictures, folder)
    for picture in list(folder.iterdir()):
        picture.with_suffix(".txt").write_text("what nobody read")
    process = bench.start(home, instance_data_dir=folder, caption_strategy="instanceprompt")
    process.wait_until_durable(home)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    record = unsealed((home / RUN).read_bytes())
    for name in ("caption_strategy", *DRAWS, "caption_separator"):
        del record["options"][name]
    (home / RUN).write_bytes(sealed(record))
    bench.run(home, instance_data_dir=folder)
    assert result_digests(home) == undisturbed()
