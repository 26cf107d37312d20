"""One value for one option: checked, or refused in words."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dreambooth_resume.config.messages import assignment, shown
from dreambooth_resume.config.option import Option, is_secret
from dreambooth_resume.errors import BadInput

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_BOUNDS = {
    "greater_than": ("gt", "is too small: it must be more than"),
    "greater_than_equal": ("ge", "is too small: it must be at least"),
    "less_than": ("lt", "is too large: it must be less than"),
    "less_than_equal": ("le", "is too large: it must be at most"),
}
_WANTED = {"bool": "neither true nor false", "int": "not a whole number", "float": "not a number", "text": "not text"}


def checked(option: Option, value: object, *, where: str) -> object:
    """`value` as the option's type. Raises BadInput with what is wrong with it and what to type.

    `where` is a flag, or "FILE:LINE: KEY"; the fix is spelled in the same way.
    """
    # Python's true is 1, and pydantic takes it for a number.
    is_bool_for_number = isinstance(value, bool) and option.kind in ("int", "float")
    try:
        if not is_bool_for_number:
            return option.validated(value)
        what = f"{shown(value)} is {_WANTED[option.kind]}"
    except ValidationError as error:
        what = _in_words(error.errors()[0], option, value)
    raise BadInput(what, where=where, fix=_fix(option, value, where=where))


def _in_words(details: ErrorDetails, option: Option, value: object) -> str:
    if value is None:
        return "has no value"
    told = "the value" if is_secret(option.name) else shown(value)
    number = told.strip('"')
    context = details.get("ctx", {})
    if details["type"] in _BOUNDS:
        key, words = _BOUNDS[details["type"]]
        bound = context[key]
        return f"{number} {words} {int(bound) if bound == int(bound) else bound}"
    if details["type"] == "multiple_of":
        return f"{number} is not a multiple of {context['multiple_of']}"
    if details["type"] == "value_error":
        return f"{told} {context['error']}"
    if details["type"] == "finite_number":
        return f"{number} is not a finite number"
    if option.kind == "choice":
        return f"{told} is not one of {', '.join(option.choices)}"
    return f"{told} is {_WANTED[option.kind]}"


def _fix(option: Option, value: object, *, where: str) -> str:
    if option.kind == "choice":
        near = get_close_matches(str(value).lower(), option.choices, n=1, cutoff=0.5)
        suggestion = near[0] if near else (option.default or option.choices[0])
        return f"type {assignment(option.name, suggestion, where=where)}"
    if option.name == "resume_from_checkpoint":
        path = PurePosixPath(str(value))
        if path.name.startswith("checkpoint-") and path.name != str(value):
            return f"type {assignment(option.name, path.name, where=where)}, and output_dir {path.parent}"
        return f"type {assignment(option.name, 'latest', where=where)}"
    if option.kind == "text" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'put it in quotes: {option.name}: "{value}"'
    if option.name == "resolution" and str(value).isdigit() and int(str(value)) > 32:
        below = int(str(value)) // 8 * 8
        return f"type {assignment(option.name, below, where=where)}, or {below + 8}"
    if option.required:
        return f"see: dbr options {option.name}"
    if option.default is None:
        return f"leave it out, or see: dbr options {option.name}"
    return f"type {assignment(option.name, option.default, where=where)} (the default)"
