"""A run that is being put together: checked field by field, then as `dbr launch` checks it, and made into its words.

No Gradio here, and nothing is written but pictures that were uploaded.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import get_args

from PIL import Image

from dreambooth_resume.config.load import parse_train
from dreambooth_resume.config.messages import plain
from dreambooth_resume.config.option import Option, is_secret
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.config.template import EXAMPLES, commented_yaml
from dreambooth_resume.config.values import checked
from dreambooth_resume.config.yaml_file import read_yaml
from dreambooth_resume.errors import BadInput, DbrError
from dreambooth_resume.launch.launchers import settings_options, split_words
from dreambooth_resume.workflows.launch import plan, prepare

PRESETS = ("8gb", "12gb", "16gb", "24gb", "80gb")
NOT_ASKED = frozenset(
    "output_dir storage_uri stage_dir instance_data_dir resume_from_checkpoint resume_request_id allow_change "
    "take_over wait_for_holder unfenced local_rank s3_endpoint_url s3_region s3_addressing_style s3_sse "
    "s3_kms_key_id".split()
)
"""Options that the page decides by itself, or that are about going on with a run."""
PATHS = frozenset(
    "pretrained_model_name_or_path base_config pretrained_vae_model_name_or_path cache_dir instance_data_dir "
    "dataset_name class_data_dir network_weights validation_prompts_file validation_data_dir logging_dir notice_file "
    "stage_dir".split()
)
"""Options that may name a file or a folder of this machine."""
FROM_A_TERMINAL = frozenset("secrets image image_id ami hf_token_parameter".split())
"""Options of launchers by which secrets of this process, or a machine's rights, would go to programs that a browser
chooses."""
PICTURE_BYTES_MAX = 60_000_000
PICTURES_MAX = 500
_PIXELS_MAX = 120_000_000
_FORMATS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif"}
_NAME = re.compile(r"[\w][\w.-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """What is wrong with one field, and what to type; `name` is empty for what is about the whole."""

    name: str
    what: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What Start would do. With errors, nothing of it can be done."""

    errors: tuple[FieldError, ...] = ()
    home: str = ""
    words: tuple[str, ...] = ()
    """Of `dbr`."""
    train_words: tuple[str, ...] = ()
    """Those among them that are options of `dbr train`."""
    differs: tuple[tuple[str, str, str], ...] = ()
    """Option, what it would be without, and what it is."""
    yaml: str = ""
    plan: str = ""


def askable() -> list[Option]:
    """The options that the form asks for, in the schema's order."""
    return [option for option in OPTIONS.values() if option.name not in NOT_ASKED and not is_secret(option.name)]


def launcher_fields(where: str) -> list[Option]:
    """The own options of a launcher that the form asks for."""
    return [one for one in settings_options(where).values() if one.name not in FROM_A_TERMINAL]


def left_to_a_terminal(where: str) -> list[str]:
    """The own options of a launcher that are refused here."""
    return [name for name in settings_options(where) if name in FROM_A_TERMINAL]


def bounds(option: Option) -> str:
    """`at least 1`, `0 to 1`, `more than 0`; empty without any."""
    low = high = ""
    for entry in _constraints(option.annotation):
        for name, words in (("ge", "at least {}"), ("gt", "more than {}")):
            if (value := getattr(entry, name, None)) is not None:
                low = words.format(plain(value))
        for name, words in (("le", "at most {}"), ("lt", "less than {}")):
            if (value := getattr(entry, name, None)) is not None:
                high = words.format(plain(value))
    return ", ".join(one for one in (low, high) if one)


def preset_values(name: str) -> dict[str, object]:
    """What a preset sets, without the lines that everybody fills in. Raises BadInput for a name that is none."""
    if name not in PRESETS:
        raise BadInput("is no preset", where=name[:20], fix=f"one of {', '.join(PRESETS)}")
    with_path = files("dreambooth_resume.configs") / f"sdxl_{name}.yaml"
    entries = read_yaml(Path(str(with_path)))
    own = {*EXAMPLES, *NOT_ASKED}
    return {
        entry.name: checked(OPTIONS[entry.name], entry.value, where=name) for entry in entries if entry.name not in own
    }


def home_of(place: str, name: str) -> str:
    """The new run's home. Raises BadInput for a name that would lead elsewhere."""
    if not _NAME.fullmatch(name.strip()):
        raise BadInput(
            "is no name for a run" if name.strip() else "has no name yet",
            where="name",
            fix="letters, digits, dots, dashes and underscores, such as dog-2",
        )
    return f"{place.rstrip('/')}/{name.strip()}"


def review(
    values: Mapping[str, str],
    *,
    where: str,
    home: str,
    preset: str | None,
    may_use: Callable[[str], bool],
    s3_words: Sequence[str] = (),
) -> Review:
    """Check everything, and say what would be started. `values` are options as typed, without the empty ones.

    `may_use` says whether a path of this machine may be named: a browser must not read what isn't meant for it.
    """
    errors = [error for name, value in values.items() if (error := _error(where, name, value, may_use)) is not None]
    if errors:
        return Review(errors=tuple(errors), home=home)
    base = preset_values(preset) if preset else {}
    typed = {**{name: plain(value) for name, value in base.items()}, **values}
    place = "storage_uri" if "://" in home else "output_dir"
    words = [f"--{place}={home}", *(f"--{name}={value}" for name, value in typed.items())]
    words += s3_words if "://" in home else ()
    try:
        prepared = prepare(where, words)
        shown_plan = plan(prepared)
        train_words = split_words(where, words)[1]
        given = parse_train(train_words)
    except BadInput as error:
        return Review(errors=(_of(error, where),), home=home)
    except DbrError as error:
        return Review(errors=(FieldError(name="", what=str(error), fix=""),), home=home)
    return Review(
        home=home,
        words=("launch", where, *words),
        train_words=tuple(train_words),
        differs=tuple(_differs(values, base, {**settings_options(where), **OPTIONS})),
        yaml=commented_yaml(given.values),
        plan=shown_plan,
    )


def store_pictures(uploaded: Sequence[Path], captions: Mapping[str, str], folder: Path) -> Path:
    """Copy uploads that are pictures below `folder`, under names of our own, with their captions; returns where.

    The same pictures with the same captions go to the same place. `captions` are by our names, such as
    `0001-5feceb66ff.png`; the part after the dash is the picture's content, and a caption follows it wherever it stands
    among the others. Raises BadInput for what is no picture, too large, or too many.
    """
    if len(uploaded) > PICTURES_MAX:
        raise BadInput(f"are {len(uploaded)}, more than {PICTURES_MAX}", where="pictures", fix="name their folder")
    checked_pictures = [_checked_picture(path) for path in uploaded]
    named = {
        f"{number:04d}-{hashlib.sha256(body).hexdigest()[:10]}.{ending}": body
        for number, (ending, body) in enumerate(checked_pictures, start=1)
    }
    by_content = {_content(name): text for name, text in captions.items()}
    texts = {name: text for name in named if (text := captions.get(name, by_content.get(_content(name), "")).strip())}
    digest = hashlib.sha256()
    for name, body in named.items():
        digest.update(hashlib.sha256(body).digest() + hashlib.sha256(texts.get(name, "").encode()).digest())
    target = folder / digest.hexdigest()[:24]
    target.mkdir(parents=True, exist_ok=True)
    for name, body in named.items():
        _put(target / name, body)
        if name in texts:
            _put((target / name).with_suffix(".txt"), texts[name].encode())
    return target


def _content(name: str) -> str:
    """The part of one of our names that is the same wherever the picture stands."""
    return name.partition("-")[2]


def _checked_picture(path: Path) -> tuple[str, bytes]:
    """The ending by what it really is, and the body."""
    where = path.name[:80]
    try:
        if path.stat().st_size > PICTURE_BYTES_MAX:
            raise BadInput(f"is larger than {PICTURE_BYTES_MAX // 1_000_000} MB", where=where, fix="make it smaller")
        body = path.read_bytes()
    except OSError as error:
        # Uploads are kept for a day, and for as long as the page is served.
        raise BadInput("is no longer here", where=where, fix="drop it again") from error
    try:
        with Image.open(io.BytesIO(body)) as image:
            ending = _FORMATS.get(image.format or "")
            too_large = image.width * image.height > _PIXELS_MAX
            if ending is not None and not too_large:
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        ending, too_large = None, False
    if too_large:
        raise BadInput("has more pixels than any training needs", where=where, fix="make it smaller")
    if ending is None:
        raise BadInput("is no picture that can be read", where=where, fix=f"take it out; {', '.join(_FORMATS)} can")
    return ending, body


def _put(path: Path, body: bytes) -> None:
    # The name goes last, so that a folder cut short by a kill is filled up by the same upload.
    if not path.is_file():
        partial = path.with_suffix(f"{path.suffix}.{os.getpid()}.tmp")
        partial.write_bytes(body)
        partial.replace(path)


def _error(where: str, name: str, value: str, may_use: Callable[[str], bool]) -> FieldError | None:
    own = settings_options(where)
    if name in own and name in FROM_A_TERMINAL:
        return FieldError(
            name=name,
            what="could hand secrets on, so a browser may not name it",
            fix=f"leave it out, or in a terminal: dbr launch {where}",
        )
    option = OPTIONS.get(name) or own.get(name)
    if option is None or is_secret(name) or (name in NOT_ASKED and name != "instance_data_dir"):
        return FieldError(name=name, what="can't be set here", fix="leave it out")
    if name in PATHS and not may_use(value):
        return FieldError(
            name=name, what="is outside of the folders that this page may read", fix="start dbr ui with --files FOLDER"
        )
    try:
        checked(option, value, where=f"--{name}")
    except BadInput as error:
        return FieldError(name=name, what=error.what, fix=error.fix or "")
    return None


def _of(error: BadInput, launcher: str) -> FieldError:
    """The field that an error is about, by where it was found: `--rank`, `--partition night`."""
    known = {**settings_options(launcher), **OPTIONS}
    flag = (error.where or "").split(" ", 1)[0].partition("=")[0].removeprefix("--").replace("-", "_")
    name = flag if flag in known else next((one for one in known if (error.where or "").startswith(f"{one}:")), "")
    where = "" if name else f"{error.where}: " if error.where else ""
    return FieldError(name=name, what=f"{where}{error.what}", fix=error.fix or "")


def _differs(
    values: Mapping[str, str], base: Mapping[str, object], known: Mapping[str, Option]
) -> list[tuple[str, str, str]]:
    found = []
    for name, value in values.items():
        option = known.get(name)
        before = base.get(name, option.default if option else None)
        if plain(before) != value:
            found.append((name, "–" if before is None else plain(before), value))
    return found


def _constraints(annotation: object) -> list[object]:
    """What pydantic is told of an annotation's bounds, however deep it lies."""
    found: list[object] = []
    for entry in (*getattr(annotation, "__metadata__", ()), *get_args(annotation)):
        found += [entry, *getattr(entry, "metadata", ())]
        if not isinstance(entry, type):
            found += _constraints(entry) if get_args(entry) else []
    return found
