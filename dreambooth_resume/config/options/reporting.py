"""Options: trackers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from dreambooth_resume.config.options.declaration import NOT_BLANK, SECTION_CONFIG, TILDE_EXPANDED, free


class ReportingOptions(BaseModel):
    """Where loss, learning rate and pictures are shown beside the home."""

    model_config = SECTION_CONFIG

    report_to: Annotated[Literal["auto", "tensorboard", "wandb", "trackio", "comet_ml", "all", "none"], free()] = "auto"
    """Tracker that gets every step once, as one series over all attempts. auto: tensorboard where its package is
    installed, else none. all: every one that is installed. comet_ml was *not run* by dbr's own tests."""

    logging_dir: Annotated[str, NOT_BLANK, TILDE_EXPANDED, free()] = "logs"
    """Folder for the trackers' files, below output_dir unless it is absolute."""
