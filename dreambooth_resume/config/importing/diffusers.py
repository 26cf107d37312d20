"""Options of Diffusers' SDXL DreamBooth scripts as ours. The names are the same; a few meanings are not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from dreambooth_resume.config.importing.findings import About, Findings, Setting
from dreambooth_resume.config.not_yet import NOT_YET
from dreambooth_resume.config.other_trainers import NO_COUNTERPART
from dreambooth_resume.config.schema import ALIASES, OPTIONS
from dreambooth_resume.config.unknown import nearest_name

SCRIPT = "train_dreambooth_lora_sdxl.py"
ADVANCED_SCRIPT = "train_dreambooth_lora_sdxl_advanced.py"

OTHERWISE: dict[str, str] = {
    "seed": "the same seed gives other numbers here: every draw is a function of the seed and the step",
    "num_train_epochs": "every step has its full number of pictures here, also over the end of an epoch, so epochs may "
    "make fewer steps",
    "random_flip": "drawn for each step here; the script draws it once for each picture",
    "mixed_precision": "the LoRA stays float32 here; the script's is in bfloat16 with bf16",
    "dataloader_num_workers": "threads here, and they never change the result",
    "offload": "text encoders and VAE are never on the device while they aren't used, so it isn't needed for what the "
    "scripts do with it; here it moves the UNet's layers, and costs time",
    "train_text_encoder_ti_frac": "a part of the steps here; the script counts whole epochs",
    "train_text_encoder_frac": "a part of the steps here; the script counts whole epochs",
}
"""Ours has the name, and does something else than the script with it."""

# The script declares these as `type=bool`: it takes every text but an empty one for true.
_ANY_TEXT_IS_TRUE = ("prodigy_decouple", "prodigy_use_bias_correction", "prodigy_safeguard_warmup")

_LAUNCHERS = {"mixed_precision": "mixed_precision", "num_processes": "num_processes"}
"""Options of `accelerate launch` that decide something here."""


def take_diffusers(
    found: Findings, settings: Sequence[Setting], *, program: str | None, launcher: Sequence[Setting]
) -> None:
    """The script's settings into `found`."""
    given = {setting.name for setting in settings}
    for setting in launcher:
        _take_launchers(found, setting, given=given)
    for setting in settings:
        _take(found, setting)
    if program == ADVANCED_SCRIPT:
        _take_what_the_advanced_script_does_unasked(found, given)


def _take(found: Findings, setting: Setting) -> None:
    name = ALIASES.get(setting.name, setting.name)
    if name == "resume_from_checkpoint":
        _say_resume(found, setting)
    elif name == "local_rank":
        found.say(About.OTHERWISE, setting.theirs, "left out: launchers of several processes set it")
    elif name in NOT_YET or (name in OPTIONS and name == setting.name):
        _take_known(found, setting)
    elif name in NO_COUNTERPART:
        found.leave_out(setting, NO_COUNTERPART[name])
    else:
        near = nearest_name(name)
        found.leave_out(setting, f"no such option; did the script mean {near}?" if near in OPTIONS else "unknown here")


def _take_known(found: Findings, setting: Setting) -> None:
    name, value = setting.name, setting.value
    if name in _ANY_TEXT_IS_TRUE and isinstance(value, str):
        as_text = f"the script takes every text for true, {value} too: true is what it trained with"
        is_false = value.lower() in ("false", "0", "no")
        found.take(name, True, theirs=setting.theirs, otherwise=as_text if is_false else None)
        return
    if isinstance(value, list):
        found.leave_out(setting, f"{len(value)} words: put text with blanks in quotes")
        return
    found.take(name, value, theirs=setting.theirs, otherwise=OTHERWISE.get(name))


def _say_resume(found: Findings, setting: Setting) -> None:
    step = str(setting.value)
    if PurePosixPath(step).name.startswith("checkpoint-"):
        text = (
            "not in the file. To begin from the script's checkpoint: dbr train --config FILE --resume_from_checkpoint "
            f"OUTPUT_DIR/{PurePosixPath(step).name}, with another output_dir"
        )
    else:
        text = "not in the file: it belongs on the command line, dbr train --config FILE --resume latest"
    found.say(About.OTHERWISE, setting.theirs, text)


def _take_launchers(found: Findings, setting: Setting, *, given: set[str]) -> None:
    theirs = f"accelerate launch {setting.theirs}"
    if setting.name == "dynamo_backend" and str(setting.value).lower() != "no":
        found.take("torch_compile", True, theirs=theirs)
        found.take("dynamo_backend", str(setting.value).lower(), theirs=theirs)
    elif setting.name in _LAUNCHERS:
        if setting.name not in given:
            found.take(_LAUNCHERS[setting.name], setting.value, theirs=theirs, otherwise=OTHERWISE.get(setting.name))
    elif setting.name == "num_machines" and str(setting.value) != "1":
        found.say(About.NOTHING, theirs, "a run is trained on one machine")
    else:
        found.say(About.NOTHING, theirs, "dbr train is started without accelerate launch")


def _take_what_the_advanced_script_does_unasked(found: Findings, given: set[str]) -> None:
    found.take(
        "output_kohya_format",
        True,
        theirs=ADVANCED_SCRIPT,
        otherwise="it writes kohya's file always",
    )
    trains_text = {"train_text_encoder", "train_text_encoder_ti"} & given
    if trains_text and "adam_weight_decay_text_encoder" not in given:
        found.take(
            "adam_weight_decay_text_encoder",
            found.values.get("adam_weight_decay", OPTIONS["adam_weight_decay"].default),
            theirs=ADVANCED_SCRIPT,
            otherwise="adam_weight_decay_text_encoder is adam_weight_decay there, and 1e-3 here: set to theirs",
        )
