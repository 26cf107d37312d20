"""The commented YAML file of `dbr config new`, made from the schema."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping

from dreambooth_resume.config.option import Option
from dreambooth_resume.config.options.declaration import ChangePolicy
from dreambooth_resume.config.options.train import SECTIONS
from dreambooth_resume.config.schema import section_options, section_summary

# What stands in for the required options until the user fills them in.
EXAMPLES = {
    "pretrained_model_name_or_path": "stabilityai/stable-diffusion-xl-base-1.0",
    "instance_data_dir": "path/to/pictures",
    "instance_prompt": "a photo of sks dog",
}
_WIDTH = 110
_HEAD = """\
# Options of `dbr train`. Use it with: dbr train --config THIS_FILE --resume latest
# A flag wins over its line here. A line that begins with # shows the default; remove the # to set it.
# A resumed run takes what is not set from the run itself.
"""


def commented_yaml(
    values: Mapping[str, object] | None = None, *, head: str = _HEAD, origins: Mapping[str, str] | None = None
) -> str:
    """All options: the required ones as examples, the common ones set to their defaults, the others commented out.

    Not all are set, because a set option counts as the user's wish when the run is resumed. With `values` those are
    set and no others, and required ones that are not among them stay commented examples; `origins` are what stood for
    them in another program's file.
    """
    blocks = [head]
    for section in SECTIONS:
        blocks.append(f"\n# --- {section}: {section_summary(section)}\n")
        for option in section_options(section):
            blocks.append(_lines(option) if values is None else _imported_lines(option, values, origins or {}))
    return "".join(blocks)


def yaml_scalar(value: object) -> str:
    """A value as YAML 1.1 reads it back: text that could be a number, a bool or syntax is quoted."""
    if isinstance(value, float):
        # PyYAML reads 1e-08 as text; 1.0e-08 is a number for every reader.
        text = repr(value)
        mantissa, exponent, power = text.partition("e")
        return f"{mantissa}.0e{power}" if exponent and "." not in mantissa else text
    if isinstance(value, str) and (value in ("no", "yes", "on", "off", "null", "~", "") or not _is_plain(value)):
        return json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, str) else json.dumps(value)


def _is_plain(text: str) -> bool:
    return text[0].isalpha() and all(letter.isalnum() or letter in " _-./" for letter in text) and text == text.strip()


def _lines(option: Option) -> str:
    value = EXAMPLES.get(option.name, option.default)
    is_set = option.name in EXAMPLES or (option.common and value is not None)
    return f"{_comment(option)}\n{'' if is_set else '#'}{option.name}: {yaml_scalar(value)}\n"


def _imported_lines(option: Option, values: Mapping[str, object], origins: Mapping[str, str]) -> str:
    if option.name not in values:
        value = EXAMPLES.get(option.name, option.default)
        return f"{_comment(option)}\n#{option.name}: {yaml_scalar(value)}\n"
    origin = origins.get(option.name, "").lstrip("-").replace("-", "_")
    told = f"   # from {origins[option.name]}" if origin not in ("", option.name) else ""
    return f"{_comment(option)}\n{option.name}: {yaml_scalar(values[option.name])}{told}\n"


def _comment(option: Option) -> str:
    notes = [option.help]
    if option.choices:
        notes.append(f"One of {', '.join(option.choices)}.")
    if option.policy is ChangePolicy.REFUSED:
        notes.append(f"Kept for the life of a run, unless allow_change names {option.name}.")
    if option.policy is ChangePolicy.NEVER:
        notes.append("Fixed for the life of a run.")
    return textwrap.fill(" ".join(notes), _WIDTH, initial_indent="# ", subsequent_indent="# ")
