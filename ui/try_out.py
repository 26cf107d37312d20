"""What the page Try it asks of `dbr generate`, and the pictures that come of it. No Gradio here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from dreambooth_resume.errors import BadInput
from dreambooth_resume.runs.checkpoints import CheckpointInfo
from dreambooth_resume.ui.served import Served, small_picture

PROMPT_LETTERS_MAX = 4000
STEPS_MAX, SIDE_MAX = 200, 4096
_SEED_MAX = 2**63 - 1
_GUIDANCE_MAX = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """A picture that somebody wants to see, as it was typed; what is empty is as the run or the command has it."""

    home: str
    checkpoint: str
    """Its folder."""
    prompt: str
    negative_prompt: str = ""
    seed: str = ""
    steps: str = ""
    guidance: str = ""
    width: str = ""
    height: str = ""
    model: str = ""
    """Where the base model is on this machine, if the run had it from elsewhere."""


class _Printed(BaseModel):
    """A picture in the list that `dbr generate --json` prints."""

    file: Path
    checkpoint: str | None
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """A picture in the served folder. `checkpoint` is None for the base model alone."""

    path: Path
    checkpoint: str | None
    prompt: str
    facts: str


_LIST = TypeAdapter(list[_Printed])


def idea_words(
    idea: Idea, *, home: str, folder: str, out: Path, s3_words: Sequence[str], may_use: Callable[[str], bool]
) -> list[str]:
    """Of `dbr`. `home` and `folder` are the run and its checkpoint as they were found.

    Raises BadInput for what can't be painted, and for a model that this page may not name.
    """
    prompt, negative = _words("prompt", idea.prompt), _words("negative prompt", idea.negative_prompt)
    if not prompt:
        raise BadInput("is empty", where="prompt", fix="say what is to be seen, such as a photo of sks dog on the moon")
    if idea.model and not may_use(idea.model):
        raise BadInput(
            "is outside of the folders that this page may read",
            where=idea.model[:200],
            fix="start dbr ui with --files FOLDER",
        )
    numbers = {
        "seed": _whole("seed", idea.seed, least=0, most=_SEED_MAX),
        "steps": _whole("denoising steps", idea.steps, least=1, most=STEPS_MAX),
        "width": _whole("width", idea.width, least=8, most=SIDE_MAX),
        "height": _whole("height", idea.height, least=8, most=SIDE_MAX),
        "guidance-scale": _guidance(idea.guidance),
        "negative-prompt": negative or None,
        "pretrained-model-name-or-path": idea.model or None,
    }
    given = [f"--{name}={value}" for name, value in numbers.items() if value is not None]
    more = s3_words if "://" in home else ()
    return [
        "generate", home, f"--step={folder}", f"--prompt={prompt}", *given, *more, f"--out={out}", "--json",
    ]  # fmt: skip


def checkpoint_choices(checkpoints: Sequence[CheckpointInfo]) -> list[tuple[str, str]]:
    """What can be tried, the newest first: what is shown, and the folder."""
    return [
        (f"step {one.step:,}{' (the result)' if one.is_result else ' (newest)' if one.is_newest else ''}", one.folder)
        for one in reversed(checkpoints)
        if one.state == "live" or one.is_result
    ]


def chosen(choices: Sequence[tuple[str, str]], asked: str) -> str:
    """The folder that `?step=` means: a folder, or the newest of a step; else the newest of all."""
    folders = [folder for _, folder in choices]
    if asked in folders:
        return asked
    of_step = [folder for folder in folders if folder.split("-")[1:2] == [asked]]
    return next(iter([*of_step, *folders]), "")


def keep_pictures(served: Served, output: str, *, run: str, mark: str) -> tuple[Painted, ...]:
    """Copy what the command lists to the served folder, under names that say what it is.

    Raises ValueError for what is no such list, or no picture.
    """
    try:
        listed = _LIST.validate_python(json.loads(output))
    except ValidationError as error:
        raise ValueError("the command printed no list of pictures") from error
    made = []
    for one in listed:
        body = one.file.read_bytes()
        small_picture(body, formats=("PNG",))  # raises ValueError for anything else
        who = f"{run}-{one.checkpoint}" if one.checkpoint else "base-model"
        path = served.file(f"{_plain(who)}-seed-{one.seed}.png", mark, one.checkpoint or "")
        path.write_bytes(body)
        facts = f"seed {one.seed}, {one.num_inference_steps} steps, guidance {one.guidance_scale:g}, "
        facts += f"{one.width} × {one.height}" + (f", without: {one.negative_prompt}" if one.negative_prompt else "")
        made.append(Painted(path=path, checkpoint=one.checkpoint, prompt=one.prompt, facts=facts))
    served.tidy()
    return tuple(made)


def forget(folder: Path) -> None:
    """What the command left there."""
    shutil.rmtree(folder, ignore_errors=True)


def _words(name: str, typed: str) -> str:
    if len(typed) > PROMPT_LETTERS_MAX:
        raise BadInput(f"has more than {PROMPT_LETTERS_MAX:,} letters", where=name, fix="the model reads 77 tokens")
    return typed.replace("\0", "").strip()


def _whole(name: str, typed: str, *, least: int, most: int) -> int | None:
    if not typed:
        return None
    if not typed.isdecimal() or not least <= int(typed) <= most:
        raise BadInput(
            f"{typed[:40]} is no whole number from {least} to {most}", where=name, fix="type one, or leave it empty"
        )
    return int(typed)


def _guidance(typed: str) -> float | None:
    if not typed:
        return None
    try:
        value = float(typed)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= _GUIDANCE_MAX:  # NaN, too
        raise BadInput(
            f"{typed[:40]} is not between 0 and {_GUIDANCE_MAX:g}", where="guidance", fix="5, or leave it empty"
        )
    return value


def _plain(name: str) -> str:
    """Fit for a file's name on every system."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return kept.lstrip(".")[:100]
