"""Pictures that changed since the run began: named and refused, or a segment that every later resume follows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.resume.harness import KILLED, Bench, CrashPoint, committed_steps, log_of, result_digests

LONGER = {"max_train_steps": 10, "center_crop": False, "random_flip": True, "use_aspect_ratio_buckets": True}


@pytest.fixture(scope="session")
def changed_pictures(bench: Bench) -> Path:
    """The test pictures with one edited, one removed and one added."""
    folder = bench.folder / "changed-pictures"
    shutil.copytree(bench.pictures, folder)
    first, second, third = sorted(folder.iterdir())
    second.unlink()
    first.write_bytes(third.read_bytes())
    shutil.copy(third, folder / "zz-new.png")
    return folder


@pytest.fixture(scope="session")
def four_steps(bench: Bench) -> Path:
    """A run that was finished at step 2 and again at step 4, so that it has checkpoints of both."""
    home = bench.folder / "pictures-four-steps"
    for steps in (2, 4):
        bench.run(home, **{**LONGER, "max_train_steps": steps})
    assert committed_steps(home) == [2, 4]
    return home


def test_changed_pictures_are_named_and_refused(
    bench: Bench, four_steps: Path, changed_pictures: Path, home: Path
) -> None:
    shutil.copytree(four_steps, home)
    entries = len(log_of(home).entries)
    names = sorted(path.name for path in bench.pictures.iterdir())
    process = bench.start(home, instance_data_dir=changed_pictures, **LONGER)
    assert process.wait() == 78
    assert f"(added: zz-new.png; removed: {names[1]}; edited: {names[0]})" in process.output()
    assert "--on-data-change continue" in process.output()
    assert len(log_of(home).entries) == entries


def test_a_segment_is_followed_through_a_kill_by_a_machine_that_has_only_the_home(
    bench: Bench, four_steps: Path, changed_pictures: Path, home: Path
) -> None:
    """[run, change, continue, kill, resume without the folder] = [run, change, continue, no kill]."""
    whole = home.with_name("whole")
    shutil.copytree(four_steps, whole)
    shutil.copytree(four_steps, home)
    changed = {**LONGER, "instance_data_dir": changed_pictures, "on_data_change": "continue"}
    process = bench.run(whole, **changed)
    assert "The run goes on with the 3 pictures of now." in process.output()
    assert "From step 4 on the run is trained on the pictures of now." in process.output()
    crash = CrashPoint(call="replace", path="checkpoint-10-a3/trainer_state.json")
    assert bench.start(home, crash=crash, **changed).wait() == KILLED
    moved = home.with_name("moved")
    shutil.move(home, moved)
    words = ["train", "--output_dir", str(moved), "--resume", "latest", "--instance_data_dir", "/nowhere"]
    process = bench.command(moved, words)
    assert process.wait() == 0, process.output()
    assert "but the result has not the bytes of an unchanged run: " in process.output()
    assert "; other pictures from step 4 on." in process.output()
    assert result_digests(moved) == result_digests(whole)
    last = log_of(moved).last
    assert last is not None
    assert [segment.from_step for segment in last.state.segments] == [4]
    history = bench.command(moved, ["history", str(moved)])
    assert history.wait() == 0
    assert "others from step 4 on" in history.output()


def test_going_back_before_a_segment_trains_on_the_pictures_of_then(
    bench: Bench, four_steps: Path, changed_pictures: Path, home: Path
) -> None:
    changed = {**LONGER, "instance_data_dir": changed_pictures, "on_data_change": "continue"}
    through = home.with_name("through")
    for one in (home, through):
        shutil.copytree(four_steps, one)
        bench.run(one, **{**changed, "max_train_steps": 6})
    bench.run(through, **{**changed, "max_train_steps": 8})
    process = bench.run(home, **{**changed, "resume": 2, "max_train_steps": 8})
    assert "Resuming from checkpoint-2 " in process.output()
    assert result_digests(home) == result_digests(through)


def test_a_killed_continue_leaves_pictures_that_any_machine_can_go_on_with(
    bench: Bench, four_steps: Path, changed_pictures: Path, home: Path
) -> None:
    shutil.copytree(four_steps, home)
    changed = {**LONGER, "instance_data_dir": changed_pictures, "on_data_change": "continue"}
    adopt = f"log/{log_of(home).next_number:08d}.json"
    crash = CrashPoint(call="link", path=adopt, when="after")
    assert bench.start(home, crash=crash, **changed).wait() == KILLED
    process = bench.command(
        home, ["train", "--output_dir", str(home), "--resume", "latest", "--instance_data_dir", "/no"]
    )
    assert process.wait() == 0, process.output()


def test_another_prompt_that_is_allowed_begins_a_segment(bench: Bench, four_steps: Path, home: Path) -> None:
    shutil.copytree(four_steps, home)
    prompt = {"instance_prompt": "a photo of sks toy robot"}
    process = bench.start(home, **{**LONGER, **prompt})
    assert process.wait() == 2
    assert "--allow_change instance_prompt" in process.output()
    process = bench.run(home, **{**LONGER, **prompt}, allow_change="instance_prompt")
    assert "caption changed: " in process.output()
    last = log_of(home).last
    assert last is not None
    assert [(one.from_step, one.prompt) for one in last.state.segments] == [(4, "a photo of sks toy robot")]
    gc = bench.command(home, ["gc", str(home)])
    assert gc.wait() == 0
    assert "picture" not in gc.output(), gc.output()
