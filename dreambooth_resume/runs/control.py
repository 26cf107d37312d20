"""`control/`: what people ask of a running attempt. Anyone may write; the holder reads and answers (rule 13)."""

from __future__ import annotations

import getpass
import os
import socket
import time
import uuid
from typing import Literal

from pydantic import ValidationError

from dreambooth_resume.errors import KeyNotFound
from dreambooth_resume.runs.entries import Record
from dreambooth_resume.runs.home import CONTROL_PREFIX, control_key
from dreambooth_resume.storage.base import Storage

POLL_SECONDS = 10.0

RequestKind = Literal["stop", "save", "sample", "retire"]
"""A later release may add one: an attempt that doesn't know it passes it over, and whoever asks hears no answer."""


class Request(Record):
    """One wish. `checkpoint` is the number of the checkpoint entry to retire, for kind `retire` alone; `prompt` is for
    `sample` alone, None: the run's own.
    """

    kind: RequestKind
    nonce: str
    asked_by: str
    checkpoint: int | None = None
    prompt: str | None = None


def post_request(
    storage: Storage, kind: RequestKind, *, checkpoint: int | None = None, prompt: str | None = None
) -> Request:
    """Leave a request for whoever holds the run; the status of that attempt lists its nonce once it is done."""
    nonce = uuid.uuid4().hex
    asked_by = f"{_user()}@{socket.gethostname()}"
    request = Request(kind=kind, nonce=nonce, asked_by=asked_by, checkpoint=checkpoint, prompt=prompt)
    # The time only sorts the keys for people; nothing is decided by it.
    storage.put_if_absent(control_key(time.time_ns() // 1_000_000, nonce), request.model_dump_json().encode())
    return request


def withdraw_request(storage: Storage, request: Request) -> None:
    """Take a request back; one that was carried out meanwhile is gone already."""
    for key, found in open_requests(storage):
        if found.nonce == request.nonce:
            storage.delete(key)


def open_requests(storage: Storage) -> list[tuple[str, Request]]:
    """The requests that nobody has carried out yet, with their keys, oldest first. Foreign files are passed over."""
    found: list[tuple[str, Request]] = []
    for stored in storage.list(CONTROL_PREFIX):
        try:
            found.append((stored.key, Request.model_validate_json(storage.read(stored.key))))
        except (KeyNotFound, ValidationError):
            continue
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id may have no name (KeyError before Python 3.13)
        return f"uid {os.getuid()}"
