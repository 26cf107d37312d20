"""What every option declares beside its type: may it change when the run is resumed, and is it part of the run?

A field reads `rank: Annotated[int, Field(ge=1), refused("start a new run …")] = 4`, with its help text as the
docstring below it. A test goes over all fields and demands both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo


class ChangePolicy(StrEnum):
    """What happens when a resumed run is given another value than the one it has."""

    FREE = "free"
    """The new value is taken; the weights can't notice."""
    APPLIED = "applied"
    """The new value counts from the next step on, and is said; the weights differ from those of an unchanged run."""
    REFUSED = "refused"
    """The run does not start, unless the user names the option in --allow_change: then the new value is applied."""
    NEVER = "never"
    """The run does not start, whatever is allowed: what is done already does not fit the new value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """Sits in the metadata of a field's annotation.

    `advice` is what to do for a refused option, what the change does for an applied one, and None for a free one.
    `null_is_unset`: null means "whatever the run has", so it is no value that could differ from the run's.
    `repeatable`: text whose flag may be typed several times; the values are joined by commas, as a YAML list is.
    `in_fork`: `dbr fork` may begin a run with another value from a checkpoint of this one.
    """

    policy: ChangePolicy
    advice: str | None = None
    recorded: bool = True
    common: bool = False
    aliases: tuple[str, ...] = ()
    null_is_unset: bool = False
    repeatable: bool = False
    in_fork: bool = True


def free(
    *,
    recorded: bool = True,
    common: bool = False,
    aliases: tuple[str, ...] = (),
    null_is_unset: bool = False,
    repeatable: bool = False,
) -> Declaration:
    """The option may change on every resume. Not `recorded`: it belongs to one attempt or one machine."""
    return Declaration(
        policy=ChangePolicy.FREE,
        recorded=recorded,
        common=common,
        aliases=aliases,
        null_is_unset=null_is_unset,
        repeatable=repeatable,
    )


def applied(
    effect: str, *, common: bool = False, aliases: tuple[str, ...] = (), null_is_unset: bool = False
) -> Declaration:
    """A new value counts from the next step on; `effect` says so to the user, as the end of "NAME: 1 -> 2: …"."""
    return Declaration(
        policy=ChangePolicy.APPLIED, advice=effect, common=common, aliases=aliases, null_is_unset=null_is_unset
    )


def refused(what_to_do: str, *, common: bool = False, null_is_unset: bool = False, in_fork: bool = True) -> Declaration:
    """A resumed run keeps its value, unless --allow_change names the option: the code can go on with another one.

    `what_to_do` is the line a user reads who asked for another value.
    """
    return Declaration(
        policy=ChangePolicy.REFUSED, advice=what_to_do, common=common, null_is_unset=null_is_unset, in_fork=in_fork
    )


def never(
    what_to_do: str,
    *,
    common: bool = False,
    aliases: tuple[str, ...] = (),
    null_is_unset: bool = False,
    in_fork: bool = False,
) -> Declaration:
    """A resumed run keeps its value, and nothing allows another: the saved state, or the run's plan, would not fit."""
    return Declaration(
        policy=ChangePolicy.NEVER,
        advice=what_to_do,
        common=common,
        aliases=aliases,
        null_is_unset=null_is_unset,
        in_fork=in_fork,
    )


def declaration_of(field: FieldInfo) -> Declaration:
    """The field's declaration. Raises TypeError if it has none or several: that is a mistake in the schema."""
    found = [entry for entry in field.metadata if isinstance(entry, Declaration)]
    if len(found) != 1:
        raise TypeError(
            f"an option declares free(), applied(), refused() or never() once, this one {len(found)} times: {field}"
        )
    return found[0]


SECTION_CONFIG = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def any_case(*choices: str) -> BeforeValidator:
    """Takes `adamw` for `AdamW`; the script does so for its optimizer, and nobody should fail over a capital."""
    by_lower = {choice.lower(): choice for choice in choices}

    def canonical(value: object) -> object:
        return by_lower.get(value.lower(), value) if isinstance(value, str) else value

    return BeforeValidator(canonical)


def _not_blank(value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise ValueError("is empty")
    return value


def _with_tilde_expanded(value: str | None) -> str | None:
    # A shell expands ~ in `--output_dir ~/dog`, but not in `--output_dir=~/dog`, and nobody does in a YAML file.
    return None if value is None else os.path.expanduser(value)  # noqa: PTH111  Path would turn s3://b into s3:/b


NOT_BLANK = AfterValidator(_not_blank)
TILDE_EXPANDED = AfterValidator(_with_tilde_expanded)
FINITE = Field(allow_inf_nan=False)
