"""What a tracker must do, and which ones there are. A new one is a file beside these and a line in the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import JsonValue

PROJECT = "dreambooth-lora-sd-xl"
"""The project's name in every tracker, as in Diffusers' script."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve in a tracker: a run, over any number of attempts, until somebody goes back on purpose.

    `id` is the same for every attempt and nothing but letters and digits, 32 of them. `after_step`: what it begins
    behind. `linked_to`: the id of the series that was gone back in. `options` are the run's, without secrets.
    """

    id: str
    name: str
    run_id: str
    after_step: int
    linked_to: str | None
    options: Mapping[str, JsonValue]


class Tracker(Protocol):
    """One open series. Used by one thread, which nobody waits for: a method may take its time, hang or raise."""

    def last_step(self) -> int | None:
        """The last step that the series holds; None where only the home knows what was sent."""
        ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def pictures(self, step: int, phase: str, prompt: str, pictures: Sequence[NDArray[np.uint8]]) -> None:
        """Pictures [height, width, 3] of one prompt. `phase` is `validation`, or `test` for the result's."""
        ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class OpenTracker(Protocol):
    """A tracker's class: opens the series, or goes on with it. Its files go below `folder`."""

    def __call__(self, series: Series, folder: Path) -> Tracker: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerKind:
    """Where a tracker's class is, and the package that it needs."""

    target: str
    package: str


TRACKERS: dict[str, TrackerKind] = {
    "tensorboard": TrackerKind(
        target="dreambooth_resume.training.trackers.tensorboard:TensorBoardTracker", package="tensorboard"
    ),
    "wandb": TrackerKind(target="dreambooth_resume.training.trackers.wandb:WandbTracker", package="wandb"),
    "trackio": TrackerKind(target="dreambooth_resume.training.trackers.trackio:TrackioTracker", package="trackio"),
    "comet_ml": TrackerKind(target="dreambooth_resume.training.trackers.comet:CometTracker", package="comet_ml"),
}
