"""The file behind --validation_prompts_file: a prompt for each picture, with what it has otherwise than the others.

Three ways to write it. Lines as kohya's trainers take them, `a photo of sks dog --n blurry --w 1024 --h 768 --d 7 --l 5
--s 30`; JSON or YAML, a list of texts or of objects; JSONL, such an object a line.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dreambooth_resume.errors import BadInput

MOST_SHOTS = 100
_LARGEST_FILE_BYTES = 1_000_000
_LONGEST_PROMPT = 4000
_FLAG = re.compile(r"(?:^|\s)--(\w+)(?:\s+|$)")
# Names in files -> ours: Diffusers', kohya's in lines and in JSON, and those of other trainers' lists.
_NAMES = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "n": "negative_prompt",
    "width": "width",
    "w": "width",
    "height": "height",
    "h": "height",
    "seed": "seed",
    "d": "seed",
    "guidance_scale": "guidance_scale",
    "scale": "guidance_scale",
    "l": "guidance_scale",
    "num_inference_steps": "num_inference_steps",
    "sample_steps": "num_inference_steps",
    "steps": "num_inference_steps",
    "s": "num_inference_steps",
}
_KNOWN = (
    "prompt, negative_prompt (--n), width (--w), height (--h), seed (--d), guidance_scale (--l), "
    "num_inference_steps (--s)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """What one picture is asked to be; None: as the run makes its pictures."""

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None


def read_shots(path: Path) -> tuple[Shot, ...]:
    """The prompts of a file, in its order. Raises BadInput, with the line or entry, for what can't be one."""
    text = _read(path)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        entries = [(f"{path}:{number}", _json(line, f"{path}:{number}")) for number, line in _lines(text)]
    elif suffix in (".json", ".yaml", ".yml"):
        entries = [(f"{path}: entry {number}", one) for number, one in enumerate(_list(text, path, suffix), start=1)]
    else:
        entries = [(f"{path}:{number}", _of_line(line, f"{path}:{number}")) for number, line in _lines(text)]
    shots = tuple(shot_of(entry, where=where) for where, entry in entries)
    if not shots:
        raise BadInput("holds no prompt", where=str(path), fix="write a prompt on each line")
    if len(shots) > MOST_SHOTS:
        raise BadInput(f"holds {len(shots)} prompts", where=str(path), fix=f"keep at most {MOST_SHOTS}")
    return shots


def shot_of(entry: object, *, where: str) -> Shot:
    """One entry: a text, or names and values. Raises BadInput for a name or a value that it can't have."""
    if isinstance(entry, str):
        entry = {"prompt": entry}
    if not isinstance(entry, Mapping):
        raise BadInput("is neither a text nor an object", where=where, fix='write {"prompt": "a photo of sks dog"}')
    values: dict[str, Any] = {}
    for name, value in entry.items():
        ours = _NAMES.get(str(name).replace("-", "_"))
        if ours is None:
            raise BadInput(f"{str(name)[:40]} is not known here", where=where, fix=f"leave it out; known are {_KNOWN}")
        if value is not None:
            values[ours] = value
    prompt = values.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > _LONGEST_PROMPT:
        raise BadInput("has no prompt", where=where, fix="write the prompt first")
    return Shot(
        prompt=prompt.strip(),
        negative_prompt=str(values.get("negative_prompt", "")).strip(),
        width=_whole(values, "width", where, least=64, most=4096, multiple=8),
        height=_whole(values, "height", where, least=64, most=4096, multiple=8),
        num_inference_steps=_whole(values, "num_inference_steps", where, least=1, most=1000),
        guidance_scale=_guidance(values, where),
        seed=_whole(values, "seed", where, least=0, most=2**63 - 1),
    )


def shot_facts(shot: Shot) -> dict[str, str | int | float]:
    """The shot as JSON that `shot_of` reads back; what it leaves to the run is left out."""
    facts: dict[str, str | int | float | None] = {
        "prompt": shot.prompt,
        "negative_prompt": shot.negative_prompt or None,
        "width": shot.width,
        "height": shot.height,
        "num_inference_steps": shot.num_inference_steps,
        "guidance_scale": shot.guidance_scale,
        "seed": shot.seed,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _of_line(line: str, where: str) -> dict[str, object]:
    """A line in kohya's form: the prompt, then ` --n words`, ` --w 1024`."""
    parts = _FLAG.split(line)
    values: dict[str, object] = {"prompt": parts[0].strip()}
    for name, value in zip(parts[1::2], parts[2::2], strict=True):
        if _NAMES.get(name) in values:
            raise BadInput(f"--{name} stands twice", where=where, fix="leave one of the two")
        if name not in _NAMES:
            raise BadInput(f"--{name} is not known here", where=where, fix=f"leave it out; known are {_KNOWN}")
        values[_NAMES[name]] = value.strip()
    return values


def _whole(values: Mapping[str, Any], name: str, where: str, *, least: int, most: int, multiple: int = 1) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if not least <= number <= most or isinstance(value, bool) or number % multiple:
        of = f", a multiple of {multiple}" if multiple > 1 else ""
        raise BadInput(f"{name} is {str(value)[:20]}", where=where, fix=f"a whole number from {least} to {most}{of}")
    return number


def _guidance(values: Mapping[str, Any], where: str) -> float | None:
    value = values.get("guidance_scale")
    if value is None:
        return None
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0 <= number <= 100:  # NaN is not, either
        raise BadInput(f"guidance_scale is {str(value)[:20]}", where=where, fix="a number from 0 to 100; 5 is usual")
    return number


def _lines(text: str) -> list[tuple[int, str]]:
    numbered = enumerate(text.splitlines(), start=1)
    return [(number, line.strip()) for number, line in numbered if line.strip() and not line.lstrip().startswith("#")]


def _list(text: str, path: Path, suffix: str) -> list[object]:
    if suffix == ".json":
        found = _json(text, str(path))
    else:
        try:
            found = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            raise BadInput("is not YAML", where=str(path), fix="put texts with : or # in quotes") from None
    if not isinstance(found, list):
        raise BadInput("is not a list of prompts", where=str(path), fix='write ["a photo of sks dog"]')
    return found


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadInput(f"is not JSON: {error}", where=where, fix='write {"prompt": "a photo of sks dog"}') from None


def _read(path: Path) -> str:
    where = f"--validation_prompts_file {path}"
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise BadInput("is too large to be a list of prompts", where=where, fix="name a text, JSON or YAML file")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput("is not text in UTF-8", where=where, fix="name a text, JSON or YAML file") from None
    except OSError as error:
        raise BadInput(f"can't be read: {error.strerror}", where=where, fix="name a file that you may read") from None
