"""The options of `dbr train` as a flat table, read from the section models: help, YAML, flags and documentation are
made from it. It takes a quarter of a second to make: who needs a section alone reads that (`config/option.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from pydantic import BaseModel

from dreambooth_resume.config.option import Option, options_of
from dreambooth_resume.config.options.train import SECTIONS, TrainOptions


def _table() -> dict[str, Option]:
    table: dict[str, Option] = {}
    for section, model in SECTIONS.items():
        found = options_of(section, model)
        if twice := sorted(found.keys() & table.keys()):
            raise TypeError(f"{twice[0]} is in two sections; outside, option names are flat")
        table |= found
    return table


OPTIONS: Mapping[str, Option] = _table()
ALIASES: Mapping[str, str] = {alias: option.name for option in OPTIONS.values() for alias in option.aliases}


def section_options(section: str) -> list[Option]:
    return [option for option in OPTIONS.values() if option.section == section]


def section_summary(section: str) -> str:
    """The first line of the section's docstring."""
    return (SECTIONS[section].__doc__ or "").strip().partition("\n")[0]


def assemble(values: Mapping[str, object]) -> TrainOptions:
    """TrainOptions from flat values, defaults for the rest. Raises pydantic.ValidationError; nothing is repaired."""
    nested: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        nested[OPTIONS[name].section][name] = value
    return TrainOptions.model_validate(nested)


def flatten(options: TrainOptions) -> dict[str, object]:
    """The values under their flat names, in the schema's order."""
    flat: dict[str, object] = {}
    for option in OPTIONS.values():
        section = cast(BaseModel, getattr(options, option.section))
        flat[option.name] = getattr(section, option.name)
    return flat
