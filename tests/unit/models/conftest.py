"""A tiny SDXL folder, and copies of it to spoil."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.source import ModelSource, resolve_source
from dreambooth_resume.models.tiny import build_tiny_sdxl


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny-sdxl"
    build_tiny_sdxl(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_source(tiny_folder: Path) -> ModelSource:
    return resolve_source(str(tiny_folder), hub=HuggingFaceHub())


@pytest.fixture
def model_copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.fixture
def edit_config(model_copy: Path) -> Callable[..., None]:
    """Changes keys of one of the copy's configuration files, given its name."""

    def edit(name: str, **changes: Any) -> None:
        path = model_copy / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit
