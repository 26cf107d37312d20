"""The tiny model and its pictures: real, complete, and the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_resume.models.families import family_named
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.quiet import quiet_loading
from dreambooth_resume.models.source import resolve_source
from dreambooth_resume.models.tiny import build_tiny_sdxl
from dreambooth_resume.models.tiny_pictures import draw_pictures


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_folder_is_byte_identical_when_built_twice_in_two_processes(tiny_folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from dreambooth_resume.models.tiny import build_tiny_sdxl; "
        "build_tiny_sdxl(Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "again"], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert contents(tmp_path / "again") == contents(tiny_folder)


def test_folder_is_small_and_loads_as_a_pipeline(tiny_folder: Path) -> None:
    assert sum(path.stat().st_size for path in tiny_folder.rglob("*") if path.is_file()) < 8_000_000
    with quiet_loading():
        from diffusers import StableDiffusionXLPipeline

        pipe = StableDiffusionXLPipeline.from_pretrained(tiny_folder)
    image = pipe("a photo of sks robot", num_inference_steps=1, height=64, width=64).images[0]
    assert image.size == (64, 64)


def test_prompts_are_told_apart(tiny_folder: Path) -> None:
    source = resolve_source(str(tiny_folder), hub=HuggingFaceHub())
    import torch

    encoders = family_named(source.family).encoders(source, device=torch.device("cpu"))
    robot, dog = (encoders.encode_prompt(f"a photo of sks {word}") for word in ("robot", "dog"))
    assert abs(robot[0] - dog[0]).max() > 0.1
    assert abs(robot[1] - dog[1]).max() > 0.1


def test_v_prediction_folder_says_so(tmp_path: Path) -> None:
    build_tiny_sdxl(tmp_path / "v", prediction_type="v_prediction")
    source = resolve_source(str(tmp_path / "v"), hub=HuggingFaceHub())
    assert family_named(source.family).check(source).prediction_type == "v_prediction"


def test_global_generator_is_left_as_it_was(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_tiny_sdxl(tmp_path / "model")
    assert torch.equal(torch.rand(4), expected)


def test_folder_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("x")
    with pytest.raises(OSError, match="mine"):
        build_tiny_sdxl(target)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.txt"]


def test_eight_pictures_of_different_sizes_the_same_every_time(tmp_path: Path) -> None:
    first, second = draw_pictures(tmp_path / "a"), draw_pictures(tmp_path / "b")
    assert [path.name for path in first] == [f"robot-{number}.png" for number in range(1, 9)]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(set(contents(tmp_path / "a").values())) == 8
    images = [Image.open(path) for path in second]
    assert {image.mode for image in images} == {"RGB"}
    assert len({image.size for image in images}) > 4
