"""Wires `--keep_best`: what an attempt knows of earlier steps."""

from __future__ import annotations

from dreambooth_resume.checkpoint.best import BestKept
from dreambooth_resume.config.options.checkpoints import CheckpointOptions
from dreambooth_resume.runs.curves import read_curve
from dreambooth_resume.runs.log import Log
from dreambooth_resume.storage.base import Storage


def open_best(options: CheckpointOptions, storage: Storage, log: Log) -> BestKept:
    """What is known of the steps before is read only where it is wanted."""
    points = read_curve(storage, log=log).points if options.keep_best else ()
    val_losses = {point.step: point.val_loss for point in points if point.val_loss is not None}
    return BestKept(storage, is_wanted=options.keep_best, val_losses=val_losses)
