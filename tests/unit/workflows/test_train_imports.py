"""What can be said without torch is said before it is imported: that takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dreambooth_resume.models.tiny import build_tiny_sdxl

PROGRAM = """
import sys
from dreambooth_resume.cli.main import main
code = main(sys.argv[1:])
print("heavy:", code, [name for name in ("torch", "accelerate", "diffusers", "transformers") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in `model`, one picture in `pictures`, one file that is no picture in `bad`, nothing in `empty`."""
    folder = tmp_path_factory.mktemp("inputs")
    build_tiny_sdxl(folder / "model")
    for name in ("pictures", "bad", "empty"):
        (folder / name).mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "pictures" / "one.png")
    (folder / "bad" / "one.png").write_text("no picture")
    return folder


def dbr_train(folders: Path, **options: object) -> tuple[int, str, str]:
    """Exit code, heavy libraries that were imported, and what was printed."""
    given = {
        "pretrained_model_name_or_path": "model",
        "instance_data_dir": "pictures",
        "instance_prompt": "a photo",
        "resolution": 64,
        "train_batch_size": 1,
        "max_train_steps": 1,
        "seed": 0,
        "output_dir": "home",
        "resume_from_checkpoint": "latest",
        **options,
    }
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "train", *words], cwd=folders, capture_output=True, text=True, timeout=100
    )
    code, heavy = done.stdout.rsplit("heavy: ", 1)[1].split(maxsplit=1)
    return int(code), heavy.strip(), done.stdout + done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        {"instance_data_dir": "missing"},
        {"instance_data_dir": "empty"},
        {"instance_data_dir": "bad"},
        {"pretrained_model_name_or_path": "./missing"},
        {"pretrained_model_name_or_path": "pictures"},
        {"output_dir": "model/model_index.json"},
    ],
    ids=lambda wrong: "-".join(map(str, next(iter(wrong.items())))),
)
def test_wrong_inputs_are_named_before_torch_is_imported(folders: Path, wrong: dict[str, str]) -> None:
    code, heavy, printed = dbr_train(folders, **wrong)
    assert (code, heavy) == (2, "[]"), printed


@pytest.mark.slow
def test_a_finished_run_is_answered_without_torch(folders: Path) -> None:
    code, heavy, printed = dbr_train(folders)
    assert code == 0, printed
    assert "torch" in heavy
    code, heavy, printed = dbr_train(folders)
    assert (code, heavy) == (0, "[]"), printed
    assert "Finished: step 1 of 1" in printed
