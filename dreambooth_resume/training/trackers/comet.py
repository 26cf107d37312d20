"""Comet: one experiment under one key, however many attempts. COMET_START_ONLINE=0 keeps it offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreambooth_resume.training.trackers.base import PROJECT, Series


class CometTracker:
    """`comet_ml.start` with the series' id as the experiment's key: made by the first attempt."""

    def __init__(self, series: Series, folder: Path) -> None:
        import comet_ml

        settings = comet_ml.ExperimentConfig(
            name=series.name,
            offline_directory=str(folder),
            log_code=False,
            auto_output_logging=False,
            auto_metric_logging=False,
            log_git_metadata=False,
            log_git_patch=False,
            tags=[series.run_id],
        )
        self._experiment: Any = comet_ml.start(
            project_name=PROJECT, experiment_key=series.id, mode="get_or_create", experiment_config=settings
        )
        self._experiment.log_parameters({**series.options, "linked_to": series.linked_to})

    def last_step(self) -> int | None:
        return None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._experiment.log_metrics(dict(values), step=step)

    def pictures(self, step: int, phase: str, prompt: str, pictures: Sequence[NDArray[np.uint8]]) -> None:
        for number, picture in enumerate(pictures):
            self._experiment.log_image(picture, name=f"{phase}/{number}: {prompt}", step=step)

    def flush(self) -> None:
        self._experiment.flush()

    def close(self) -> None:
        self._experiment.end()
