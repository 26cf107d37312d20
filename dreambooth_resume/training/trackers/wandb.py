"""Weights & Biases: one run under one id, however many attempts. WANDB_MODE=offline keeps it on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreambooth_resume.training.trackers.base import PROJECT, Series


class WandbTracker:
    """`wandb.init` with the series' id and `resume="allow"`; `wandb sync` joins what was made offline by that id."""

    def __init__(self, series: Series, folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=PROJECT,
            id=series.id,
            name=series.name,
            group=series.run_id,
            resume="allow",
            dir=str(folder),
            config={**series.options, "linked_to": series.linked_to, "after_step": series.after_step},
            # No console: it would take over our output. No code and no git: nobody asked for them to leave the machine.
            settings=wandb.Settings(console="off", silent=True, save_code=False, disable_git=True),
        )

    def last_step(self) -> int | None:
        return None  # offline nobody can know; the server passes over steps that it has

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def pictures(self, step: int, phase: str, prompt: str, pictures: Sequence[NDArray[np.uint8]]) -> None:
        shown = [self._wandb.Image(picture, caption=f"{number}: {prompt}") for number, picture in enumerate(pictures)]
        self._run.log({phase: shown}, step=step)

    def flush(self) -> None: ...  # it sends by itself

    def close(self) -> None:
        self._run.finish()
