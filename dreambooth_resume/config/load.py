"""From what the user typed to the options of a run.

Three steps, because a resumed run takes what was not given from its own record and never from today's defaults:
`parse_train` reads and checks what was given, `resolve` fills up the rest, `record` says what run.json keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth_resume.config.command_line import Flag, read_flags
from dreambooth_resume.config.contradictions import refuse_contradictions
from dreambooth_resume.config.option import Option, is_secret
from dreambooth_resume.config.options.train import TrainOptions
from dreambooth_resume.config.schema import ALIASES, OPTIONS, assemble, flatten
from dreambooth_resume.config.unknown import unknown_option
from dreambooth_resume.config.values import checked
from dreambooth_resume.config.yaml_file import YamlValue, read_yaml
from dreambooth_resume.errors import BadInput, RefusedToGoOn


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenOptions:
    """What the user gave, checked one by one, and where each value came from ("--rank", "run.yaml:3: rank")."""

    values: Mapping[str, object]
    sources: Mapping[str, str]
    config_file: Path | None

    def value(self, name: str) -> object:
        """The given value, or the default; for the few that are needed before the run's record can be read."""
        return self.values.get(name, OPTIONS[name].default)


def parse_train(argv: Sequence[str], *, on_problem: Callable[[BadInput], None] | None = None) -> GivenOptions:
    """Reads flags and the file behind --config; flags win. Raises BadInput for the first thing that is wrong.

    With `on_problem` a line of the file that is wrong is told there, and left out.
    """
    flags = read_flags(argv)
    config_file = _config_file(flags)
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    if config_file is not None:
        for entry in read_yaml(config_file):
            name = ALIASES.get(entry.name, entry.name)
            try:
                values[name] = _checked_line(name, entry, sources)
            except BadInput as error:
                if on_problem is None:
                    raise
                on_problem(error)
            else:
                sources[name] = entry.where
    typed: set[str] = set()
    for flag in flags:
        if flag.name == "config":
            continue
        value = flag.value
        if OPTIONS[flag.name].repeatable and flag.name in typed:
            value = f"{values[flag.name]},{value}"
        typed.add(flag.name)
        sources[flag.name] = flag.where
        values[flag.name] = checked(OPTIONS[flag.name], value, where=flag.where)
    given = {name: value for name, value in values.items() if not _is_unset(name, value)}
    return GivenOptions(values=given, sources={name: sources[name] for name in given}, config_file=config_file)


def resolve(given: GivenOptions, *, recorded: Mapping[str, object] | None) -> TrainOptions:
    """The options of this attempt: what was given, else what the run has (`recorded`, None at the first start).

    Raises BadInput for a required option that nobody gave and for contradictions; RefusedToGoOn if the record holds an
    option or a value that this version doesn't know.
    """
    values = _from_record(recorded or {}) | dict(given.values)
    missing = [name for name, option in OPTIONS.items() if _is_missing(name, option, values)]
    if missing:
        raise _missing(missing, given)
    options = assemble(values)
    refuse_contradictions(options, given.sources)
    return options


def record(options: TrainOptions) -> dict[str, object]:
    """What run.json keeps: flat, JSON-able, the same for the same run, and nothing secret.

    Options that stand for another one's value are written out (lora_alpha, mixed_precision), so that a later version
    with another default reads the same run.
    """
    values = flatten(options)
    if options.lora.rank_pattern is None:  # beside it null means each layer's own rank
        values["lora_alpha"] = options.lora.alpha
    values["mixed_precision"] = options.training.precision
    return {name: value for name, value in values.items() if OPTIONS[name].recorded and not is_secret(name)}


def with_values(options: TrainOptions, values: Mapping[str, object]) -> TrainOptions:
    """The same options with some changed, such as the seed that the first start drew.

    Raises pydantic.ValidationError for a value out of range, which is a mistake of the caller.
    """
    return assemble(flatten(options) | dict(values))


def _checked_line(name: str, entry: YamlValue, sources: Mapping[str, str]) -> object:
    if name not in OPTIONS:
        raise unknown_option(name, where=entry.where)
    if name in sources:
        raise BadInput(f"says the same as {sources[name]}", where=entry.where, fix="leave one of the two lines")
    return checked(OPTIONS[name], entry.value, where=entry.where)


def _is_missing(name: str, option: Option, values: Mapping[str, object]) -> bool:
    if name == "instance_data_dir":
        return values.get(name) is None and values.get("dataset_name") is None
    return option.required and name not in values


def _config_file(flags: Sequence[Flag]) -> Path | None:
    files = [Path(str(flag.value)) for flag in flags if flag.name == "config"]
    if len(files) > 1:
        raise BadInput(
            f"given {len(files)} times", where="--config", fix="put the options in one file, or type them as flags"
        )
    return files[0].expanduser() if files else None


def _is_unset(name: str, value: object) -> bool:
    return value is None and OPTIONS[name].null_is_unset


def _from_record(recorded: Mapping[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in recorded.items():
        if name not in OPTIONS:
            raise RefusedToGoOn(
                f"run.json has the option {name}, which this version of dbr doesn't know. "
                "The run was begun by a newer one: install that version or a later one."
            )
        try:
            values[name] = checked(OPTIONS[name], value, where="run.json")
        except BadInput as error:
            raise RefusedToGoOn(
                f"run.json: {name}: {error.what}. The run was begun by another version of dbr: install that one."
            ) from None
    return values


def _missing(names: Sequence[str], given: GivenOptions) -> BadInput:
    where = str(given.config_file) if given.config_file else None
    listed = " and ".join(", ".join(names).rsplit(", ", 1))
    flags = " ".join(f'--{name} "…"' if name == "instance_prompt" else f"--{name} …" for name in names)
    lines = "add the line" + ("s" if len(names) > 1 else "") if where else f"type {flags}"
    return BadInput(
        f"a new run needs {listed}",
        where=where,
        fix=f"{lines}; `dbr config new run.yaml` writes a file to fill in",
    )
