"""From a file of another trainer to what has been found in it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from dreambooth_resume.config.importing import diffusers, kohya
from dreambooth_resume.config.importing.findings import About, Findings, Setting
from dreambooth_resume.config.importing.shell import CommandLine, command_line
from dreambooth_resume.config.load import GivenOptions, resolve
from dreambooth_resume.config.messages import format_error
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.errors import BadInput

_LARGEST_FILE_BYTES = 1_000_000
_PROGRAMS = (diffusers.SCRIPT, diffusers.ADVANCED_SCRIPT, kohya.SCRIPT)
_GIVE = "give a script or a TOML"
_Subset = Mapping[str, Setting]


def read_file(path: Path) -> Findings:
    """What the shell script, the line or the TOML file says. Raises BadInput if it is none of these.

    What a value is wrong about is no error: it is said among the remarks.
    """
    text = _text(path)
    found = Findings()
    if path.suffix.lower() == ".toml":
        settings, subsets = _toml(found, path, text)
        kohya.take_kohya(found, settings, subsets)
    else:
        _take_command(found, command_line(text, where=str(path)), path)
    _say_what_is_missing(found)
    return found


def _take_command(found: Findings, command: CommandLine, path: Path) -> None:
    if command.program == kohya.SCRIPT:
        _take_kohyas_flags(found, command.settings, path)
    elif command.program in (None, *_PROGRAMS):
        diffusers.take_diffusers(found, command.settings, program=command.program, launcher=command.launcher)
    else:
        raise BadInput(
            f"runs {command.program}, which trains something else than an SDXL LoRA",
            where=str(path),
            fix=f"give a command line of {', '.join(_PROGRAMS)}",
        )


def _take_kohyas_flags(found: Findings, flags: Sequence[Setting], path: Path) -> None:
    """Flags win over the files that they name, as there."""
    settings, subsets = list(flags), list[_Subset]()
    for flag in flags:
        if flag.name in ("config_file", "dataset_config") and (there := _named_file(found, path, flag)) is not None:
            more, of_data = _toml(found, there, _text(there))
            settings, subsets = [*more, *settings], of_data or subsets
    kohya.take_kohya(found, settings, subsets)


def _toml(found: Findings, path: Path, text: str) -> tuple[list[Setting], list[_Subset]]:
    """kohya's options, sections flattened as there, and its data set's folders with what holds for each."""
    document = _parsed(path, text)
    options, subsets = _options(document), _subsets(document)
    beside = next((one for one in options if one.name == "dataset_config"), None)
    if beside is not None and not subsets and (there := _named_file(found, path, beside)) is not None:
        data = _parsed(there, _text(there))
        options, subsets = [*_options(data), *options], _subsets(data)
    # What holds for the data sets holds for the run: there is one of them here. Options win, then the first data set.
    of_data = {one.name: one for subset in reversed(subsets) for one in subset.values()}
    return list((of_data | {one.name: one for one in options}).values()), subsets


def _options(document: Mapping[str, object]) -> list[Setting]:
    found: list[Setting] = []
    for name, value in document.items():
        if name not in ("general", "datasets"):
            entries = value.items() if isinstance(value, dict) else [(name, value)]
            found += [Setting(name=key, value=one, theirs=key) for key, one in entries]
    return found


def _subsets(document: Mapping[str, object]) -> list[_Subset]:
    """The folders of a data set file; what stands above them holds for each."""
    found: list[_Subset] = []
    general = _table(document.get("general"))
    for dataset in _tables(document.get("datasets")):
        shared = {**general, **{key: one for key, one in dataset.items() if key != "subsets"}}
        for subset in _tables(dataset.get("subsets")):
            whole = {**shared, **subset}
            found.append({key: Setting(name=key, value=one, theirs=key) for key, one in whole.items()})
    return found


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> list[dict[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _parsed(path: Path, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(
            f"is not TOML: {error}", where=str(path), fix="give a configuration of kohya's scripts"
        ) from None


def _named_file(found: Findings, path: Path, setting: Setting) -> Path | None:
    """The TOML that `setting` of the file `path` names: from here, or beside that file. Said if it isn't there."""
    named = str(setting.value).removesuffix(".toml") + ".toml"
    places = (Path(named).expanduser(), path.parent / named)
    there = next((place for place in places if place.is_file()), None)
    if there is None:
        found.say(About.FILL_IN, setting.theirs, f"{named} is not there: import it by itself, and join the two")
    return there


def _say_what_is_missing(found: Findings) -> None:
    """What a run needs and the file lacks; then what would be refused."""
    values = found.values
    missing = [name for name, option in OPTIONS.items() if option.required and name not in values]
    if values.get("instance_data_dir") is None and values.get("dataset_name") is None:
        missing.append("instance_data_dir")
    for name in missing:
        found.say(About.FILL_IN, name, "a run needs it, and the file has none")
    if missing:
        return
    try:
        sources = {name: f"--{name}" for name in values}
        resolve(GivenOptions(values=values, sources=sources, config_file=None), recorded=None)
    except BadInput as error:
        found.say(About.FILL_IN, "dbr train would say", format_error(error).removeprefix("dbr: ").replace("\n", ";"))


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise BadInput(
                f"has {path.stat().st_size:,} bytes, which no script has",
                where=str(path),
                fix="give a script or a TOML",
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadInput("is not text in UTF-8", where=str(path), fix=_GIVE) from None
    except OSError as error:
        raise BadInput(f"can't be read: {error.strerror}", where=str(path), fix=_GIVE) from None
