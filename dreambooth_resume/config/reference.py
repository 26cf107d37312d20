"""docs/options.md, made from the schema: `dbr options --markdown > docs/options.md`. A test keeps the two equal."""

from __future__ import annotations

from dreambooth_resume.config.messages import plain
from dreambooth_resume.config.not_yet import DIFFUSERS_SCRIPT
from dreambooth_resume.config.option import Option
from dreambooth_resume.config.options.declaration import ChangePolicy
from dreambooth_resume.config.options.train import SECTIONS
from dreambooth_resume.config.other_trainers import OTHER_TRAINERS
from dreambooth_resume.config.schema import OPTIONS, section_options, section_summary

_HEAD = """\
# Options of `dbr train`

Made from the schema by `dbr options --markdown`; edit `dreambooth_resume/config/options/`, not this file.

Names, meanings and defaults are those of Diffusers' DreamBooth LoRA SDXL script. The same name is a key in the YAML
file (`learning_rate: 5e-5`), a flag (`--learning_rate 5e-5`, or `--learning-rate`), and a key in the run's `run.json`.
Flags win over the file. Bools are `--random_flip`, `--no-random_flip` or `--random_flip true|false`. `none` (in YAML:
`null`) takes a limit away.

**On a resume** options that are not given keep the run's values, never today's defaults. Given ones are compared:

- *free*: the new value is taken; it can't change the weights.
- *applied*: the new value counts from the next step on, and the run says so.
- *refused*: `dbr` stops before it touches anything (exit 2) and says what to do. `--allow-change NAME` applies the
  new value from the next step on all the same; the log and `dbr history` keep that it was so.
- *never*: refused, and nothing allows it: what is saved does not fit the new value.

Whatever is given otherwise than the run has it, a start shows in a table before it loads anything.
"""


def markdown() -> str:
    """The whole page."""
    parts = [_HEAD]
    for section in SECTIONS:
        parts.append(f"\n## {section}\n\n{section_summary(section)}\n\n")
        parts.append("| option | default | on a resume | |\n|---|---|---|---|\n")
        parts.extend(_row(option) for option in section_options(section))
    parts.append(_not_yet())
    parts.append(_other_names())
    return "".join(parts)


def _row(option: Option) -> str:
    names = ", ".join(f"`{name}`" for name in (option.name, *option.aliases))
    default = "**required**" if option.required else f"`{plain(option.default)}`"
    policy = option.policy.value
    if option.policy is not ChangePolicy.FREE:
        policy += f": {option.advice}"
    text = option.help if not option.choices else f"{option.help} One of {', '.join(option.choices)}."
    return f"| {names} | {default} | {policy} | {text.replace('|', '&#124;')} |\n"


def _not_yet() -> str:
    lines = [
        "\n## Known, and not available yet\n",
        "\nWhat else Diffusers' script takes. `dbr` refuses these with exit code 2 and never ignores them.\n\n",
        "| option | what it is |\n|---|---|\n",
    ]
    lines += [f"| `{name}` | {what} |\n" for name, what in sorted(DIFFUSERS_SCRIPT.items())]
    return "".join(lines)


def _other_names() -> str:
    """Their names for our options, one line for each of ours."""
    theirs: dict[str, list[str]] = {}
    for their_name, our_name in OTHER_TRAINERS.items():
        if our_name in OPTIONS:
            theirs.setdefault(our_name, []).append(their_name)
    lines = [
        "\n## Other trainers' names\n",
        "\nGiven one of these, `dbr` says what it is called here.\n\n| here | elsewhere |\n|---|---|\n",
    ]
    lines += [f"| `{name}` | {', '.join(f'`{other}`' for other in sorted(theirs[name]))} |\n" for name in theirs]
    return "".join(lines)
