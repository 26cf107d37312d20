"""Options: the run's home, its checkpoints, and how an attempt takes the run up."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from dreambooth_resume.config.options.declaration import FINITE, NOT_BLANK, SECTION_CONFIG, TILDE_EXPANDED, free

_CHECKPOINT = re.compile(r"checkpoint-[1-9]\d*(-a[1-9]\d*)?")
_ON_THE_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*/checkpoint-[1-9]\d*(-a[1-9]\d*)?")
_STEP = re.compile(r"[1-9]\d*")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def _as_text(value: object) -> object:
    if value is True:
        raise ValueError("says that a run is resumed, but not from where: latest, or a step such as 500")
    # `resume: 500` in YAML is a number.
    return str(value) if isinstance(value, int) else value


def _resume_target(value: str | None) -> str | None:
    if value is None:
        return None
    if value.lower() == "latest":
        return "latest"
    if _STEP.fullmatch(value) or _CHECKPOINT.fullmatch(value):
        return value
    if _CHECKPOINT.fullmatch(PurePosixPath(value).name):
        return os.path.expanduser(value)  # noqa: PTH111  as TILDE_EXPANDED
    raise ValueError("is neither latest, nor a step such as 500, nor a name such as checkpoint-500")


def _names(value: object) -> object:
    # A list in YAML; on a command line names with commas, or the flag once for each.
    return ",".join(str(one) for one in value) if isinstance(value, list) else value


def _joined(value: str | None) -> str | None:
    if value is None:
        return None
    names = [name.strip().lstrip("-").replace("-", "_") for name in value.split(",")]
    return ",".join(dict.fromkeys(name for name in names if name)) or None


def _request_id(value: str | None) -> str | None:
    if value is not None and not _REQUEST_ID.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, '.', '_' or '-'")
    return value


def hub_checkpoint(value: object) -> tuple[str, str] | None:
    """(owner/name, checkpoint-500) if `value` names a checkpoint on the Hub and no folder of this machine."""
    if not isinstance(value, str) or _ON_THE_HUB.fullmatch(value) is None or Path(value).is_dir():
        return None
    repo, _, folder = value.rpartition("/")
    return repo, folder


class CheckpointOptions(BaseModel):
    """Where the run lives, when it is saved, and how it is taken up again."""

    model_config = SECTION_CONFIG

    output_dir: Annotated[str, NOT_BLANK, TILDE_EXPANDED, free(recorded=False, common=True)] = "lora-dreambooth-model"
    """The run's home: the folder with its log, checkpoints and result. It may be moved as a whole."""

    checkpointing_steps: Annotated[int | None, Field(ge=1), free(common=True)] = None
    """Save every so many steps. Training goes on while a checkpoint is written. Given alone, it alone decides; when
    neither this nor checkpointing_seconds is given, whichever comes first of 500 steps and 60 seconds."""

    checkpointing_seconds: Annotated[float | None, FINITE, Field(gt=0), free()] = None
    """Save every so many seconds, counted from one save to the next."""

    save_every_n_epochs: Annotated[int | None, Field(ge=1), free()] = None
    """Save at the end of every so many epochs, beside the saves by steps or seconds."""

    checkpoints_total_limit: Annotated[int | None, Field(ge=1), free()] = None
    """Checkpoints to keep. The oldest goes only when the new one is safely written. null: keep all."""

    keep_every: Annotated[int | None, Field(ge=1), free()] = None
    """Checkpoints of every so many steps are kept beside those of checkpoints_total_limit."""

    keep_best: Annotated[bool, free()] = False
    """Keep the best checkpoint, too, beside those of checkpoints_total_limit. It is judged by the scores of `dbr eval`
    where there are any, else by the loss on held-out pictures (validation_data_dir) at the step of each checkpoint."""

    resume_from_checkpoint: Annotated[
        str | None,
        BeforeValidator(_as_text),
        AfterValidator(_resume_target),
        free(recorded=False, common=True, aliases=("resume",)),
    ] = None
    """latest goes on from the newest checkpoint, or starts when there is none: safe to give always. 500 or
    checkpoint-500 goes back to that step. The path of a checkpoint folder of Diffusers' own script, such as
    out/checkpoint-500, begins a new run from it, and so does you/repository/checkpoint-500 on the Hub
    (hub_strategy checkpoint); given again, it means latest."""

    resume_request_id: Annotated[
        str | None,
        AfterValidator(_request_id),
        free(recorded=False),
    ] = None
    """Name for one wish to go back, so that a start-up script with --resume 300 goes back once: when the run's log
    holds the name already, latest is meant."""

    allow_change: Annotated[
        str | None, BeforeValidator(_names), AfterValidator(_joined), free(recorded=False, repeatable=True)
    ] = None
    """Names of options that are refused on a resume and may change all the same, such as resolution: with commas, or
    the flag once for each. The new value counts from the next step on, and the run's log keeps that it was allowed."""

    take_over: Annotated[bool, free(recorded=False)] = False
    """Take the run over from another attempt at once, without waiting to see whether it is still alive."""

    wait_for_holder: Annotated[float, FINITE, Field(ge=0), free(recorded=False)] = 600.0
    """Seconds to wait for another attempt that trains this run to go away."""

    unfenced: Annotated[bool, free(recorded=False)] = False
    """Use a home whose file system can't refuse a second writer. Nothing then protects the run from one."""

    @property
    def seed_folder(self) -> Path | None:
        """The checkpoint folder of Diffusers' script that a new run is to begin from."""
        value = self.resume_from_checkpoint
        is_path = value is not None and "/" in value and self.hub_checkpoint is None
        return Path(str(value)).absolute() if is_path else None

    @property
    def hub_checkpoint(self) -> tuple[str, str] | None:
        """The repository on the Hub and the checkpoint in it that a new run is to begin from; a folder here wins."""
        return hub_checkpoint(self.resume_from_checkpoint)

    @property
    def resume_target(self) -> str | None:
        """`latest`, a step or a checkpoint's name: where in its own home the run goes on."""
        value = self.resume_from_checkpoint
        return "latest" if value is not None and "/" in value else value
