"""Options: trackers, and the result on the Hub."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from dreambooth_resume.config.options.declaration import NOT_BLANK, SECTION_CONFIG, TILDE_EXPANDED, free


def _with_underscores(value: object) -> object:
    return value.replace("-", "_") if isinstance(value, str) else value


_UNDERSCORES = BeforeValidator(_with_underscores)
"""transformers' names have them; `every-save` means the same."""


def a_web_hook(value: str | None) -> str | None:
    """The address as it is. Raises ValueError for what no message could be sent to; it says nothing of the address."""
    if value is None:
        return value
    form, plus, rest = value.partition("+")
    address = rest if plus and form in ("slack", "discord") else value
    try:
        parts = urlsplit(address)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or not address.isprintable() or " " in address:
        raise ValueError("is no address of a web hook: it begins with https:// or http:// and names a host")
    return value


class ReportingOptions(BaseModel):
    """Where curves, pictures and the result go beside the home."""

    model_config = SECTION_CONFIG

    report_to: Annotated[Literal["auto", "tensorboard", "wandb", "trackio", "comet_ml", "all", "none"], free()] = "auto"
    """Tracker that gets every step once, as one series over all attempts. auto: tensorboard where its package is
    installed, else none. all: every one that is installed. comet_ml was *not run* by dbr's own tests."""

    logging_dir: Annotated[str, NOT_BLANK, TILDE_EXPANDED, free()] = "logs"
    """Folder for the trackers' files, below output_dir unless it is absolute."""

    push_to_hub: Annotated[bool, free()] = False
    """Upload the result, its card and its pictures to the Hugging Face Hub when the run is finished. Trouble there
    costs nothing: the same command with --resume latest tries the upload again."""

    hub_model_id: Annotated[str | None, NOT_BLANK, free()] = None
    """Repository of the result, such as you/dog-lora. null: the last part of output_dir, under your own account."""

    hub_strategy: Annotated[Literal["end", "every_save", "checkpoint"], _UNDERSCORES, free()] = "end"
    """When push_to_hub uploads: the result at the end, or besides it the LoRA of each save. That has a thread of its
    own, and of saves that come quicker than the uploads the newest goes. checkpoint: with all that
    resume_from_checkpoint needs to go on from there in an empty home, but without the pictures. Trouble there is an
    alarm in `dbr status`, no more."""

    hub_token: Annotated[str | None, NOT_BLANK, free(recorded=False)] = Field(default=None, repr=False)
    """Token with write access to the Hub; never recorded or shown. Better HF_TOKEN or `hf auth login`: what is typed
    can be read by others on the machine. null: what those have."""

    notify: Annotated[str | None, NOT_BLANK, AfterValidator(a_web_hook), free(recorded=False)] = Field(
        default=None, repr=False
    )
    """Address of a web hook that is told when the run is interrupted, resumed, stalled, failed or finished, or its
    budget is spent. Slack's and Discord's are known by their address; `slack+https://…` and `discord+https://…` say so
    of others, and any other gets JSON. Never recorded or shown. Better the environment variable DBR_NOTIFY, or the file
    ~/.config/dbr/notify: what is typed can be read by others on the machine."""
