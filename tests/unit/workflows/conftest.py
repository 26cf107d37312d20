"""A tiny SDXL for what needs a whole model."""

from __future__ import annotations

from pathlib import Path

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
