"""Wires `--keep_best`: what an attempt knows of earlier steps."""

from __future__ import annotations

from collections.abc import Mapping

from dreambooth_resume.checkpoint.best import BestKept
from dreambooth_resume.config.options.checkpoints import CheckpointOptions
from dreambooth_resume.runs.curves import read_curve
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.base import Storage


def open_best(options: CheckpointOptions, storage: Storage, log: Log) -> BestKept:
    """What is known of the steps before is read only where it is wanted, and not before the first save."""

    def earlier_losses() -> Mapping[int, float]:
        points = read_curve(storage, log=log).points
        return {point.step: point.val_loss for point in points if point.val_loss is not None}

    return BestKept(storage, is_wanted=options.keep_best, earlier_losses=earlier_losses)
