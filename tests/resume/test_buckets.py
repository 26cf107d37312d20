"""Aspect-ratio buckets and masks: killed and resumed, every byte is an undisturbed run's."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from dreambooth_resume.runs.curves import read_curve
from dreambooth_resume.runs.record import read_record, write_record
from dreambooth_resume.storage.local import LocalStorage
from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, log_of, result_digests

BUCKETS: dict[str, object] = {
    "use_aspect_ratio_buckets": None,  # decided at the first start
    "center_crop": False,
    "random_flip": True,
}
MASKS: dict[str, object] = {"masked_training": True, "unmasked_weight": 0.2}
VARIANTS: dict[str, dict[str, object]] = {
    "repeats_accumulation_prior_own_list": {
        **BUCKETS,
        **MASKS,
        "aspect_ratio_buckets": "32,32;32,40;48,32",
        "repeats": 3,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "with_prior_preservation": True,
        "class_prompt": "a photo of a robot",
        "num_class_images": 2,
        "prior_loss_weight": 0.5,
    },
    "free_crops_two_loaders": {**BUCKETS, **MASKS, "cache_latents": False, "dataloader_num_workers": 2},
}


@pytest.fixture(scope="module")
def masked_pictures(bench: Bench) -> Path:
    """The test pictures: one with a mask beside it, one that is transparent around its middle, one with neither."""
    folder = bench.folder / "masked-pictures"
    shutil.copytree(bench.pictures, folder)
    first, second, _ = sorted(folder.iterdir())
    mask = Image.new("L", Image.open(first).size)
    ImageDraw.Draw(mask).ellipse((40, 20, 140, 150), fill=255)
    mask.save(folder / f"{first.stem}-mask.png")
    picture = Image.open(second)
    alpha = Image.new("L", picture.size)
    ImageDraw.Draw(alpha).ellipse((30, 20, 120, 150), fill=255)
    picture.putalpha(alpha)
    picture.save(second)
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_once_ends_in_the_same_bytes_without_the_folder(
    name: str, bench: Bench, masked_pictures: Path, undisturbed: Undisturbed, home: Path
) -> None:
    """The pictures, and their masks, come from the home then."""
    folder = home.with_name("pictures")
    shutil.copytree(masked_pictures, folder)
    changed = {**VARIANTS[name], "instance_data_dir": folder}
    process = bench.start(home, **changed)  # type: ignore[arg-type]
    process.wait_until_durable(home)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    assert recorded(home)["use_aspect_ratio_buckets"] is True
    shutil.rmtree(folder)
    resumed = bench.run(home, **changed)
    assert log_of(home).highest_attempt == 2
    assert "Resuming" in resumed.output()
    assert " buckets: " in resumed.output()
    assert "Masks: 2 of 3 pictures" in resumed.output()
    assert result_digests(home) == undisturbed(**{**changed, "instance_data_dir": masked_pictures})


def test_masked_training_without_a_mask_and_masks_that_changed_are_refused(
    bench: Bench, masked_pictures: Path, home: Path
) -> None:
    process = bench.start(home, **MASKS)  # type: ignore[arg-type]
    assert process.wait() == 2
    assert "none of the 3 pictures has a mask" in process.output()
    folder = home.with_name("pictures")
    shutil.copytree(masked_pictures, folder)
    changed = {**BUCKETS, **MASKS, "instance_data_dir": folder, "max_train_steps": 2}
    bench.run(home, **changed)
    (mask,) = folder.glob("*-mask.png")
    Image.new("L", Image.open(mask).size, 255).save(mask)
    process = bench.start(home, **{**changed, "max_train_steps": 4})
    assert process.wait() == 78
    assert f"(mask changed: {mask.name.replace('-mask', '')})" in process.output()


def test_shapes_that_differ_turn_buckets_on_and_other_portions_keep_the_samples(
    bench: Bench, undisturbed: Undisturbed, home: Path
) -> None:
    """The same steps in other portions are equivalent: the same samples and noise, other last bits."""
    changed = {**BUCKETS, "train_batch_size": 2, "gradient_accumulation_steps": 2, "max_train_steps": 4}
    process = bench.start(home, **changed)  # type: ignore[arg-type]
    process.wait_for_step(2)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    assert "2 buckets: 32x32 (2), 24x40 (1), width x height; for squares" in process.output()
    resumed = bench.run(home, **{**changed, "train_batch_size": 1, "gradient_accumulation_steps": 4})
    assert "micro_batch_size 2 -> 1" in resumed.output()
    assert losses(home)[:2] == pytest.approx(losses_of_whole(bench, home, changed)[:2], rel=0)
    assert losses(home) == pytest.approx(losses_of_whole(bench, home, changed), rel=1e-4)


def test_a_fork_in_other_portions_trains_on_the_blocks_of_the_run_in_those_portions(bench: Bench, home: Path) -> None:
    """Blocks of two there, computed one sample at a time: in blocks of one the order would be another."""
    whole: dict[str, object] = {**BUCKETS, "gradient_accumulation_steps": 1, "repeats": 2}
    bench.run(home, **whole, max_train_steps=2)
    new = home.with_name("new")
    other = {"train_batch_size": 1, "gradient_accumulation_steps": 2, "max_train_steps": 8}
    sets = [word for name, value in other.items() for word in ("--set", f"{name}={value}")]
    process = bench.command(home, ["fork", str(home), "--to", str(new), *sets])
    assert process.wait() == 0, process.output()
    process = bench.command(new, ["train", "--output_dir", str(new), "--resume", "latest"])
    assert process.wait() == 0, process.output()
    bench.run(home, **{**whole, **other})
    assert result_digests(new) == result_digests(home)


def test_held_out_pictures_are_cut_as_the_others_and_to_squares_in_runs_that_were_begun_so(
    bench: Bench, home: Path, tmp_path: Path
) -> None:
    options: dict[str, object] = {**BUCKETS, "validation_data_dir": bench.pictures, "validation_steps": 1}
    whole, old = home.with_name("whole"), home.with_name("old")
    bench.run(whole, **options, max_train_steps=3)
    for one in (home, old):
        bench.run(one, **options, max_train_steps=1)
    record = read_record(LocalStorage(old))
    assert record is not None
    assert record.held_out_in_buckets
    (old / "run.json").unlink()
    write_record(LocalStorage(old), record.model_copy(update={"held_out_in_buckets": False}))
    for one in (home, old):
        bench.run(one, **options, max_train_steps=3)
    of_whole, of_home, of_old = (val_losses(one) for one in (whole, home, old))
    assert sorted(of_whole) == [1, 2, 3]
    assert of_home == of_whole
    assert of_old[1] == of_whole[1]
    assert not {of_old[2], of_old[3]} & set(of_whole.values())
    assert result_digests(old) == result_digests(whole)


def val_losses(home: Path) -> dict[int, float]:
    points = read_curve(LocalStorage(home)).points
    return {point.step: point.val_loss for point in points if point.val_loss is not None}


def recorded(home: Path) -> dict[str, object]:
    options: dict[str, object] = json.loads((home / "run.json").read_text())["options"]
    return options


def losses(home: Path) -> list[float]:
    """Of each step, by the attempt that made it last."""
    found: dict[int, float] = {}
    for path in sorted((home / "metrics").iterdir()):
        for line in path.read_text().splitlines():
            values = json.loads(line)
            found[values["step"]] = values["loss"]
    return [found[step] for step in sorted(found)]


def losses_of_whole(bench: Bench, home: Path, changed: dict[str, object]) -> list[float]:
    whole = home.with_name("whole")
    if not whole.exists():
        bench.run(whole, **changed)
    return losses(whole)
