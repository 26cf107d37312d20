"""Trackio: a database on this machine (TRACKIO_DIR), or a Space (TRACKIO_SPACE_ID); both are Trackio's own settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreambooth_resume.training.trackers.base import PROJECT, Series


class TrackioTracker:
    """A run of the series' name, resumed. Trackio keeps a step that is sent twice twice, so it is asked what it has."""

    def __init__(self, series: Series, folder: Path) -> None:  # noqa: ARG002  Trackio has a place of its own
        import trackio

        self._trackio: Any = trackio
        self._after_step = series.after_step
        self._run: Any = trackio.init(
            project=PROJECT,
            name=series.name,
            group=series.run_id[:12],
            config={**series.options, "linked_to": series.linked_to},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._next_step: int | None = getattr(self._run, "_next_step", None)

    def last_step(self) -> int | None:
        return None if self._next_step is None else max(self._after_step, self._next_step - 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, phase: str, prompt: str, pictures: Sequence[NDArray[np.uint8]]) -> None:
        shown = {
            f"{phase}/{number}": self._trackio.Image(picture, caption=prompt) for number, picture in enumerate(pictures)
        }
        self._run.log(shown, step=step)

    def flush(self) -> None: ...  # it writes by itself

    def close(self) -> None:
        self._run.finish()
