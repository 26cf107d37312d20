"""Turned and recoloured pictures: killed, and taken up with only the home, to an undisturbed run's bytes."""

from __future__ import annotations

import json
import shutil
import signal
import struct
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.resume.conftest import Undisturbed
from tests.resume.harness import KILLED, Bench, log_of, result_digests

CHANGES: dict[str, object] = {
    "random_rotate": 15,
    "random_brightness": 0.2,
    "random_contrast": 0.2,
    "random_saturation": 0.3,
    "random_hue": 0.1,
    "center_crop": False,
    "random_flip": True,
    "masked_training": True,
}
VARIANTS: dict[str, dict[str, object]] = {
    "cached_in_buckets_beside_class_pictures": {
        **CHANGES,
        "use_aspect_ratio_buckets": True,
        "aspect_ratio_buckets": "32,32;32,40;48,32",
        "with_prior_preservation": True,
        "class_prompt": "a photo of a robot",
        "num_class_images": 2,
    },
    "free_at_every_step": {**CHANGES, "cache_latents": False, "dataloader_num_workers": 2},
}


@pytest.fixture(scope="module")
def masked_pictures(bench: Bench) -> Path:
    """The test pictures: one with a mask beside it, and one that moves."""
    folder = bench.folder / "pictures-to-turn"
    shutil.copytree(bench.pictures, folder)
    first, second, third = sorted(folder.iterdir())
    mask = Image.new("L", Image.open(first).size)
    ImageDraw.Draw(mask).ellipse((40, 20, 140, 150), fill=255)
    mask.save(folder / f"{first.stem}-mask.png")
    Image.open(third).save(folder / "moving.gif", save_all=True, append_images=[Image.open(second)])
    third.unlink()
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_killed_once_ends_in_the_same_bytes_without_the_folder(
    name: str, bench: Bench, masked_pictures: Path, undisturbed: Undisturbed, home: Path
) -> None:
    folder = home.with_name("pictures")
    shutil.copytree(masked_pictures, folder)
    options = VARIANTS[name]
    process = bench.start(home, **options, instance_data_dir=folder)  # type: ignore[arg-type]
    process.wait_until_durable(home)
    process.send(signal.SIGKILL)
    assert process.wait() == KILLED
    assert "Animated, so the first frame is taken: moving.gif" in process.output()
    shutil.rmtree(folder)
    process = bench.command(home, ["train", "--output_dir", str(home), "--resume", "latest"])
    assert process.wait() == 0, process.output()
    assert log_of(home).highest_attempt == 2
    assert result_digests(home) == undisturbed(**options, instance_data_dir=masked_pictures)
    if options.get("cache_latents", True):
        recipes = map(_recipe, (home / "cache").glob("*.safetensors"))
        changed = ["change" in recipe for recipe in recipes if recipe["kind"] == "latents"]
        # Two class pictures in the shapes of those that they ride beside: cut, and nothing else.
        assert changed.count(False) >= 2
        assert changed.count(True) >= 6


def _recipe(entry: Path) -> dict[str, object]:
    body = entry.read_bytes()
    header = json.loads(body[8 : 8 + struct.unpack_from("<Q", body)[0]])
    recipe: dict[str, object] = json.loads(header["__metadata__"]["dbr"])["recipe"]
    return recipe
