"""One option as its section model declares it: name, help, kind, choices, bounds, change policy."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from dreambooth_resume.config.options.declaration import ChangePolicy, declaration_of

Kind = Literal["bool", "int", "float", "text", "choice"]
_KINDS: dict[object, Kind] = {bool: "bool", int: "int", float: "float", str: "text"}
_SECRET_ENDINGS = ("_token", "_password", "_secret", "_secret_key")
_SECRETS = ("notify",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option. `annotation` is its type with all bounds; `default` is None for a required one."""

    name: str
    section: str
    help: str
    kind: Kind
    choices: tuple[str, ...]
    nullable: bool
    required: bool
    default: object
    annotation: Any
    policy: ChangePolicy
    advice: str | None
    recorded: bool
    common: bool
    aliases: tuple[str, ...]
    null_is_unset: bool
    repeatable: bool
    in_fork: bool

    @property
    def first_sentence(self) -> str:
        """The help up to its first full stop, for lists and messages."""
        head, stop, _ = self.help.partition(". ")
        return head + "." if stop else self.help

    @property
    def placeholder(self) -> str:
        """What stands for the value in help: INT, or the choices."""
        if self.kind == "choice":
            return "|".join(self.choices)
        return "" if self.kind == "bool" else self.kind.upper()

    def validated(self, value: object) -> object:
        """`value` as this option's type. Raises pydantic.ValidationError."""
        return TypeAdapter(self.annotation).validate_python(value)


def is_secret(name: str) -> bool:
    """Is the option's value never to be shown or kept?"""
    return name.endswith(_SECRET_ENDINGS) or name in _SECRETS


def _kind_of(annotation: Any) -> tuple[Kind, tuple[str, ...], bool]:
    """(kind, choices, nullable) of a field's type. Raises TypeError for one that no flag could carry."""
    if get_origin(annotation) is Annotated:
        return _kind_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            kind, choices, _ = _kind_of(members[0])
            return kind, choices, True
    if get_origin(annotation) is Literal:
        return "choice", tuple(str(choice) for choice in get_args(annotation)), False
    if annotation in _KINDS:
        return _KINDS[annotation], (), False
    raise TypeError(f"an option is a bool, int, float, str or Literal, or one of them and None, not {annotation}")


def _option(section: str, name: str, field: FieldInfo, annotation: Any) -> Option:
    kind, choices, nullable = _kind_of(annotation)
    declaration = declaration_of(field)
    return Option(
        name=name,
        section=section,
        help=" ".join((field.description or "").split()),
        kind=kind,
        choices=choices,
        nullable=nullable,
        required=field.is_required(),
        default=None if field.is_required() else field.default,
        annotation=annotation,
        policy=declaration.policy,
        advice=declaration.advice,
        recorded=declaration.recorded,
        common=declaration.common,
        aliases=declaration.aliases,
        null_is_unset=declaration.null_is_unset,
        repeatable=declaration.repeatable,
        in_fork=declaration.in_fork,
    )


def options_of(section: str, model: type[BaseModel]) -> dict[str, Option]:
    """The fields of one model, each declared as `declaration.py` wants it."""
    hints = get_type_hints(model, include_extras=True)
    return {name: _option(section, name, field, hints[name]) for name, field in model.model_fields.items()}
