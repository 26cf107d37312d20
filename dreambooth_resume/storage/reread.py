"""Before something is called damaged it is read once more: a bit may have flipped on its way here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dreambooth_resume.storage.base import Storage

Result = TypeVar("Result")


def read_sound(storage: Storage, key: str, parse: Callable[[bytes], Result], *, damaged: type[Exception]) -> Result:
    """What `parse` makes of the body of `key`.

    If it raises `damaged`, it is asked again about a body that was read anew, and that verdict counts: a checkpoint set
    aside, or a run refused, for one bit on a network's way would cost work that is whole where it lies.
    """
    try:
        return parse(storage.read(key))
    except damaged:
        return parse(storage.read(key))
