"""The help of `dbr train`, made from the schema: a page that fits the screen, and pages for the rest."""

from __future__ import annotations

import textwrap

from dreambooth_resume.config.messages import plain
from dreambooth_resume.config.not_yet import NOT_YET
from dreambooth_resume.config.option import Option
from dreambooth_resume.config.options.declaration import ChangePolicy
from dreambooth_resume.config.options.train import SECTIONS
from dreambooth_resume.config.schema import OPTIONS, section_options, section_summary
from dreambooth_resume.config.unknown import nearest_section
from dreambooth_resume.errors import BadInput

WIDTH = 100
_INDENT = "      "
_COLUMN = 34
_LONGEST_PLACEHOLDER = 12  # longer lists of choices go into the text
_USAGE = """\
usage: dbr train [--config FILE] [--OPTION VALUE ...]

Train a LoRA, or go on with a run. Give --resume latest always: the same command then starts the
run, and takes it up again after a kill, a reboot or on another machine with the same home.
"""
_EXAMPLES = """\
examples
  dbr train --pretrained_model_name_or_path stabilityai/stable-diffusion-xl-base-1.0 \\
      --instance_data_dir pictures --instance_prompt "a photo of sks dog" --output_dir runs/dog
  dbr train --config run.yaml --resume latest
  dbr train --config run.yaml --resume latest --max_train_steps 800 --learning-rate 5e-5"""


def short_help() -> str:
    """`dbr train --help`: the options that everybody sets, a line a section, three examples."""
    common = "\n".join(_two_columns(option) for option in OPTIONS.values() if option.common)
    sections = "\n".join(_section_line(section) for section in SECTIONS)
    return f"""\
{_USAGE}
options that everybody sets (as flags, or as keys of the YAML file behind --config; flags win)
{common}

more, with `dbr train --help SECTION`, `--help-all`, or `dbr options WORD`
{sections}

{_EXAMPLES}"""


def section_help(section: str) -> str:
    """`dbr train --help data`. Raises BadInput for a section that isn't there."""
    if section not in SECTIONS:
        near = nearest_section(section)
        fix = f"dbr train --help {near}" if near else f"one of {', '.join(SECTIONS)}; or search: dbr options {section}"
        raise BadInput("no such section", where=f"--help {section[:40]}", fix=fix)
    return f"{section}: {section_summary(section)}\n\n" + "\n".join(
        option_help(option) for option in section_options(section)
    )


def full_help() -> str:
    """`dbr train --help-all`."""
    not_yet = textwrap.fill(", ".join(sorted(NOT_YET)), WIDTH, initial_indent="  ", subsequent_indent="  ")
    pages = "\n\n".join(section_help(section) for section in SECTIONS)
    return f"{_USAGE}\n{pages}\n\nknown, and not available yet (refused, never ignored)\n{not_yet}\n\n{_EXAMPLES}"


def option_help(option: Option) -> str:
    """One option in full: flags, default, what a resume does, help."""
    flags = _flags(option)
    if option.kind == "bool":
        flags += f", --no-{option.name}"
    default = "required" if option.required else f"default {plain(option.default)}"
    return f"  {_with_placeholder(flags, option)}\n" + _filled(f"{option.help} [{default}; {_on_resume(option)}]")


def _flags(option: Option) -> str:
    return ", ".join([f"--{option.name}", *("--" + alias.replace("_", "-") for alias in option.aliases)])


def _on_resume(option: Option) -> str:
    if option.policy is ChangePolicy.NEVER:
        return "fixed for the life of a run"
    if option.policy is ChangePolicy.REFUSED:
        return f"kept for the life of a run, unless --allow-change {option.name}"
    return "may change on a resume" if option.recorded else "for this start only"


def _with_placeholder(flags: str, option: Option) -> str:
    return f"{flags} {option.placeholder}" if option.placeholder else flags


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)


def _two_columns(option: Option) -> str:
    """Flags and value left, first sentence and default right; long flags get a line of their own."""
    flags = _flags(option)
    is_short = len(option.placeholder) < _LONGEST_PLACEHOLDER
    left = f"  {flags} {option.placeholder if is_short else 'NAME'}"
    text = option.first_sentence.rstrip(".") + ("" if is_short else f": {', '.join(option.choices)}")
    if option.required:
        text += " [required]"
    elif option.default is not None:
        text += f" [default {plain(option.default)}]"
    right = textwrap.wrap(text, WIDTH - _COLUMN)
    if len(left) >= _COLUMN:
        return "\n".join([left, *(" " * _COLUMN + line for line in right)])
    return "\n".join([left.ljust(_COLUMN) + right[0], *(" " * _COLUMN + line for line in right[1:])])


def _section_line(section: str) -> str:
    names = ", ".join(option.name for option in section_options(section) if not option.common)
    return textwrap.fill(names, WIDTH, initial_indent=f"  {section:<13} ", subsequent_indent=" " * 16)
