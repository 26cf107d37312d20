"""Tiny SDXL models for all training tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dreambooth_resume.models.base import PredictionType
from dreambooth_resume.models.hub import HuggingFaceHub
from dreambooth_resume.models.source import ModelSource, resolve_source
from dreambooth_resume.models.tiny import build_tiny_sdxl


@pytest.fixture(scope="session")
def source_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[PredictionType], ModelSource]:
    """Prediction type -> a tiny SDXL of that kind."""

    def build(prediction_type: PredictionType) -> ModelSource:
        folder = tmp_path_factory.mktemp("model") / "tiny-sdxl"
        build_tiny_sdxl(folder, prediction_type=prediction_type)
        return resolve_source(str(folder), hub=HuggingFaceHub())

    return build


@pytest.fixture(scope="session")
def tiny_source(source_with: Callable[[PredictionType], ModelSource]) -> ModelSource:
    return source_with("epsilon")
