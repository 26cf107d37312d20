"""The notebook for Colab and Kaggle: its cells run here, on the tiny model, and on two platforms that are played."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dreambooth_resume.config.load import parse_train, resolve
from dreambooth_resume.models.tiny_pictures import draw_pictures

NOTEBOOK = Path(__file__).parents[3] / "docs" / "colab_and_kaggle.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}

Namespace = dict[str, Any]


class Player:
    """Runs cells by their names, as a kernel does: in one namespace, from top to bottom."""

    def __init__(self, **settings: object) -> None:
        self.namespace: Namespace = {"__name__": "__main__"}
        self._settings = settings

    def __call__(self, *names: str) -> Namespace:
        for name in names:
            exec(compile(CODE[name], f"cell {name}", "exec"), self.namespace)
            if name == "settings":
                self.namespace.update(self._settings)
        return self.namespace


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the working one, on a machine that is neither Colab nor Kaggle."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    return tmp_path


def test_it_is_a_notebook_that_nobody_has_run() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS) <= 12
    for cell in CELLS:
        assert set(cell) >= {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            compile("".join(cell["source"]), cell["id"], "exec")


@pytest.mark.slow
def test_all_cells_run_and_run_again_after_the_session_ended(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from dreambooth_resume.models.tiny import build_tiny_sdxl

    build_tiny_sdxl(here / "model")
    draw_pictures(here / "runs" / "robot-pictures")
    options = {"validation_steps": 9, "num_validation_images": 1, "torch_threads": 1, "skip_final_inference": True}
    settings = {
        "PROMPT": "a photo of sks robot",
        "NAME": "robot",
        "BASE_MODEL": str(here / "model"),
        "RESOLUTION": 32,
        "MORE_OPTIONS": options,
    }
    Player(**settings, STEPS=1)(*CODE)
    shown = capfd.readouterr().out
    assert "8 pictures" in shown
    assert "step 1/1" in shown
    assert "pytorch_lora_weights_kohya.safetensors" in shown
    # Another session: nothing but the folder is left, and this time another step is wanted, and pictures at the end.
    options["skip_final_inference"] = False
    Player(**settings, STEPS=2)(*CODE)
    shown = capfd.readouterr().out
    assert "Resuming from checkpoint-1" in shown
    assert "step 1/" not in shown
    assert "samples/2-a2" in shown
    assert (here / "runs" / "robot" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("15360, 7.5", {"mixed_precision": "fp16", "gradient_checkpointing": True, "use_8bit_adam": True}),
        ("40960, 8.0", {"mixed_precision": "bf16", "gradient_checkpointing": False, "use_8bit_adam": False}),
    ],
    ids=["T4", "A100"],
)
def test_the_gpu_decides_precision_and_memory(
    here: Path, monkeypatch: pytest.MonkeyPatch, said: str, expected: dict[str, object]
) -> None:
    (here / "nvidia-smi").write_text(f"#!/bin/sh\necho '{said}'\n")
    (here / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(here), prepend=":")
    Player()("platform", "settings", "mount", "config")
    written = yaml.safe_load((here / "run.yaml").read_text())
    assert expected.items() <= written.items()
    assert resolve(parse_train(["--config", "run.yaml"]), recorded=None)


def test_on_colab_drive_is_mounted_pictures_are_uploaded_and_results_downloaded(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    colab = types.ModuleType("google.colab")
    colab.drive = types.SimpleNamespace(mount=done.append)  # type: ignore[attr-defined]
    upload: Callable[[], dict[str, bytes]] = lambda: {"one.png": b"picture"}  # noqa: E731
    colab.files = types.SimpleNamespace(upload=upload, download=done.append)  # type: ignore[attr-defined]
    colab.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
    google = types.ModuleType("google")
    google.__path__ = []
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    home = here / "drive" / "dog"
    home.mkdir(parents=True)
    (home / "pytorch_lora_weights.safetensors").write_bytes(b"result")
    namespace = Player(HOME=home, PICTURES=here / "mine")("platform", "settings", "mount", "config", "export")
    assert namespace["PLATFORM"] == "colab"
    assert namespace["ROOT"] == Path("/content/drive/MyDrive/dbr")
    assert done == ["/content/drive", str(home / "pytorch_lora_weights.safetensors")]
    assert (here / "mine" / "one.png").read_bytes() == b"picture"


def test_on_kaggle_the_run_leaves_before_the_session_ends(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    namespace = Player(HOME=here / "dog", PICTURES=here / "mine")("platform", "settings", "mount", "config")
    assert namespace["PLATFORM"] == "kaggle"
    assert namespace["ROOT"] == Path("/kaggle/working/dbr")
    assert yaml.safe_load((here / "run.yaml").read_text())["deadline"] == "11h30m"


def test_what_is_not_installed_is_installed_at_tested_versions(here: Path) -> None:
    (here / "constraints.txt").write_text("numpy==2\n")
    play = Player(SOURCE=str(here))
    namespace = play("platform", "settings")
    commands: list[list[str]] = []
    namespace["run"] = lambda *words: commands.append([str(word) for word in words])  # and 0, as None is
    namespace["has_module"] = lambda name: False
    play("install")
    assert [command[-1] for command in commands] == ["torch==2.13.0", "bitsandbytes", "--version"]
    assert commands[1][-4:] == ["-c", str(here / "constraints.txt"), str(here), "bitsandbytes"]


def test_a_source_on_the_net_is_cloned_and_pinned_too_and_a_wrong_folder_is_named(here: Path) -> None:
    commands: list[list[str]] = []

    def run(*words: object) -> int:
        commands.append([str(word) for word in words])
        if words[0] == "git":
            Path(str(words[-1])).mkdir()
            (Path(str(words[-1])) / "constraints.txt").write_text("numpy==2\n")
        return 0

    for source, clones in (("git+https://host.example/dbr", 1), (str(here / "elsewhere"), 0)):
        play = Player(SOURCE=source)
        namespace = play("platform", "settings")
        namespace |= {"run": run, "has_module": lambda name: False}
        if clones:
            play("install")
            assert commands[0][-2:] == ["https://host.example/dbr", str(here / "dbr-source")]
            assert commands[2][-4:] == [
                "-c",
                f"{here}/dbr-source/constraints.txt",
                f"{here}/dbr-source",
                "bitsandbytes",
            ]
        else:
            with pytest.raises(SystemExit, match="There is no dbr in"):
                play("install")
